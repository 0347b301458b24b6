-- include: stamp.lua hex.lua progress.lua
-- Create partitions and record their ranges as planned, or record skipped ranges, in one step.
-- The caller merged the intervals; the version it read them at is the guard: whoever else planned in between wins.
--
-- KEYS   1 meta  2 lock:leader  3 planned  4 skipped  5 specs  6 pending  7 command_state  8 command_queue
--        9 command_ended
-- ARGV   1 expected version  2 term of the leader, or '' for a public create  3 floor  4 channel
--        5 name of this request  6 number of partitions, then per partition "id -priority min span options", options JSON or ''
--        then four lists, each a count and its members: planned removed, planned added, skipped removed, skipped added
--        then of the operator's command this is a step of: its id ('' = none), the mark it was computed from, its new state,
--        the rest of its new mark
-- Reply  {1, new version}  {0, found version} somebody else planned  {-1} floor refused  {-2, holder's term} term is over
--        {-3} the intervals are not as the caller read them (never happens unless the data was changed by hand)
--        {-4} somebody carried the command on since it was read
-- Replay the name of the last request is kept with the version it made: an equal one gets its answer again.
-- Cost   a constant number of commands, at most 500 partitions.

local meta = redis.call('HMGET', KEYS[1], 'last', 'planned_version', 'max_id', 'planned_by')
if ARGV[2] ~= '' then
  local term = redis.call('HGET', KEYS[2], 'token')
  if term ~= ARGV[2] then return {-2, term or '0'} end
end
local job = #ARGV - 3
if ARGV[job] ~= '' then
  local refused = step_refused(KEYS[2], KEYS[7], ARGV[2], ARGV[job], ARGV[job + 1])
  if refused then return refused end
end
local found = meta[2] or '0'
if found ~= ARGV[1] then
  if meta[4] == ARGV[5] .. ' ' .. found then return {1, found} end
  return {0, found}
end
local now = now_us()
local last, floor = tonumber(meta[1] or '0') or 0, tonumber(ARGV[3])
local stamp = next_stamp(last, now, floor)
if not stamp then return {-1} end
note_loss(KEYS[1], last, floor, stamp)
local version, created = text(stamp), hex_text(stamp)

local n = tonumber(ARGV[6])
local at = 7
local specs, pending, highest = {}, {}, ''
local max_id = tonumber(meta[3] or '0')
for i = 1, n do
  local id, score, head, options = string.match(ARGV[at], '^(%x+) (%-?%d+) (%S+ %S+) (.*)$')
  specs[i * 2 - 1] = id
  if options == '' then
    specs[i * 2] = head .. ' ' .. created
  else
    specs[i * 2] = head .. ' ' .. created .. ' ' .. options
  end
  pending[i * 2 - 1] = score
  pending[i * 2] = id
  if id > highest then highest = id end
  at = at + 1
end
if n > 0 then max_id = math.max(max_id, hex_number(highest)) end
local lists = {}
for list = 1, 4 do
  local count, members = tonumber(ARGV[at]), {}
  for i = 1, count do members[i] = ARGV[at + i] end
  lists[list] = members
  at = at + 1 + count
end

-- Before the first write: a key of a wrong type is refused here, not when half of the plan is written.
redis.call('HLEN', KEYS[5])
for _, key in ipairs({KEYS[3], KEYS[4], KEYS[6]}) do redis.call('ZCARD', key) end
-- A removed interval must be there, exactly as it was read.
for list = 1, 3, 2 do
  if #lists[list] > 0 then
    local scores = redis.call('ZMSCORE', KEYS[list == 1 and 3 or 4], unpack(lists[list]))
    for i = 1, #lists[list] do
      if not scores[i] then return {-3} end
    end
  end
end

-- What is new first, what is old last: see work.lua. HSET and ZADD are tried on what does no harm if it is all.
redis.call('HSET', KEYS[1], 'last', version)
for list = 2, 4, 2 do
  local scored = {}
  for i, member in ipairs(lists[list]) do
    scored[i * 2 - 1] = 0
    scored[i * 2] = member
  end
  if #scored > 0 then redis.call('ZADD', KEYS[list == 2 and 3 or 4], unpack(scored)) end
end
if n > 0 then
  redis.call('HSET', KEYS[5], unpack(specs))
  redis.call('ZADD', KEYS[6], unpack(pending))
end
redis.call('HSET', KEYS[1], 'planned_version', version, 'max_id', text(max_id),
  'planned_by', ARGV[5] .. ' ' .. version)
for list = 1, 3, 2 do
  if #lists[list] > 0 then redis.call('ZREM', KEYS[list == 1 and 3 or 4], unpack(lists[list])) end
end
if ARGV[job] ~= '' then write_step(KEYS[7], KEYS[8], KEYS[9], ARGV[job], ARGV[job + 2], now, ARGV[job + 3]) end
if n > 0 then redis.pcall('PUBLISH', ARGV[4], 'work') end
return {1, version}
