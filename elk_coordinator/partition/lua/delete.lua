-- include: stamp.lua progress.lua
-- Delete partitions that nobody holds, and take their ranges out of the plan, in one step.
--
-- KEYS   1 meta  2 planned  3 specs  4 state  5 done  6 leases  7 pending  8 suspects  9 delayed  10 failed  11 cancels
--        12 lock:leader  13 command_state  14 command_queue  15 command_ended  16 archive  17 archive_index
-- ARGV   1 expected version of the plan  2 floor  3 number of ids that are not in a chunk, then these ids
--        then two lists, each a count and its members: planned removed, planned added
--        then how many partitions all chunks hold more (that is, less) than before, the number of chunks written anew
--        and per chunk: field, its line in the index as it was read, its new line or '' when nothing is left, the chunk
--        then of the operator's command this is a step of: term of the leader, its id ('' = none), the mark it was computed
--        from, its new state, the rest of its new mark
-- Reply  {1, new version}   {0, found version} somebody planned meanwhile, or something moved to its chunk meanwhile
--        {2, id, id, ...} these are held by now
--        {-1} floor refused   {-3} the intervals are not as the caller read them
--        {-2, holder's term} the term is over   {-4} somebody carried the command on since it was read
-- Replay a repeated request finds the version changed: {0}; the caller reads again and finds them gone.
-- Cost   a constant number of commands, at most 500 ids.

local job = #ARGV - 3
if ARGV[job] ~= '' then
  local refused = step_refused(KEYS[12], KEYS[13], ARGV[job - 1], ARGV[job], ARGV[job + 1])
  if refused then return refused end
end
local meta = redis.call('HMGET', KEYS[1], 'last', 'planned_version')
if (meta[2] or '0') ~= ARGV[1] then return {0, meta[2] or '0'} end
local n, at = tonumber(ARGV[3]), 4
local ids = {}
for i = 1, n do ids[i] = ARGV[at + i - 1] end
at = at + n
local lists = {}
for list = 1, 2 do
  local count, members = tonumber(ARGV[at]), {}
  for i = 1, count do members[i] = ARGV[at + i] end
  lists[list] = members
  at = at + 1 + count
end
if n > 0 then
  local held = {2}
  local leases = redis.call('ZMSCORE', KEYS[6], unpack(ids))
  local specs = redis.call('HMGET', KEYS[3], unpack(ids))
  local done = redis.call('HMGET', KEYS[5], unpack(ids))
  for i, id in ipairs(ids) do
    if leases[i] then held[#held + 1] = id end
    -- Moved to its chunk since the caller read it: its range must not leave the plan without it.
    if not specs[i] and not done[i] then return {0, ARGV[1]} end
  end
  if #held > 1 then return held end
end
local growth, chunks = ARGV[at], tonumber(ARGV[at + 1])
at = at + 2
local fields, bodies, lines, emptied = {}, {}, {}, {}
for i = 1, chunks do fields[i] = ARGV[at + i * 4 - 4] end
if chunks > 0 then
  local found = redis.call('HMGET', KEYS[17], unpack(fields))
  for i, field in ipairs(fields) do
    local base = at + i * 4 - 4
    if (found[i] or '') ~= ARGV[base + 1] then return {0, ARGV[1]} end
    if ARGV[base + 2] == '' then
      emptied[#emptied + 1] = field
    else
      lines[#lines + 1] = field
      lines[#lines + 1] = ARGV[base + 2]
      bodies[#bodies + 1] = field
      bodies[#bodies + 1] = ARGV[base + 3]
    end
  end
end
if #lists[1] > 0 then
  local scores = redis.call('ZMSCORE', KEYS[2], unpack(lists[1]))
  for i = 1, #lists[1] do
    if not scores[i] then return {-3} end
  end
end
local last, floor = tonumber(meta[1] or '0') or 0, tonumber(ARGV[2])
local stamp = next_stamp(last, now_us(), floor)
if not stamp then return {-1} end
-- Before the first write: a key of a wrong type is refused here, not when half of it is gone.
for _, k in ipairs({4, 11, 16}) do redis.call('HLEN', KEYS[k]) end
for _, k in ipairs({2, 7, 8, 9, 10}) do redis.call('ZCARD', KEYS[k]) end
note_loss(KEYS[1], last, floor, stamp)
-- Each kind of write is tried on what does no harm if it is all; then out of the plan, and the records last.
redis.call('HSET', KEYS[1], 'last', text(stamp))
if n > 0 then redis.call('HDEL', KEYS[11], unpack(ids)) end
if #lists[2] > 0 then
  local scored = {}
  for i, member in ipairs(lists[2]) do
    scored[i * 2 - 1] = 0
    scored[i * 2] = member
  end
  redis.call('ZADD', KEYS[2], unpack(scored))
end
if #lists[1] > 0 then redis.call('ZREM', KEYS[2], unpack(lists[1])) end
if n > 0 then
  for k = 7, 10 do redis.call('ZREM', KEYS[k], unpack(ids)) end
  for k = 3, 5 do redis.call('HDEL', KEYS[k], unpack(ids)) end
end
if #emptied > 0 then
  redis.call('HDEL', KEYS[16], unpack(emptied))
  redis.call('HDEL', KEYS[17], unpack(emptied))
end
if #lines > 0 then
  redis.call('HSET', KEYS[16], unpack(bodies))
  redis.call('HSET', KEYS[17], unpack(lines))
end
if chunks > 0 then redis.call('HINCRBY', KEYS[1], 'archived', growth) end
redis.call('HSET', KEYS[1], 'planned_version', text(stamp))
if ARGV[job] ~= '' then
  write_step(KEYS[13], KEYS[14], KEYS[15], ARGV[job], ARGV[job + 2], now_us(), ARGV[job + 3])
end
return {1, text(stamp)}
