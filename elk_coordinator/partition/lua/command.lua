-- include: stamp.lua hex.lua state.lua progress.lua
-- One step of an operator's command: its moves on at most 500 partitions, and its progress mark.
-- Only what was there when the command was submitted is touched.
--
-- KEYS   1 meta  2 lock:leader  3 command_state  4 command_queue  5 command_ended  6 pending  7 suspects  8 delayed
--        9 failed  10 specs  11 state  12 cancels  13 done
-- ARGV   1 term  2 floor  3 channel  4 command id  5 the mark this step was computed from  6 stamp of the submission
--        7 move  8 what goes with it  9 place in its list after this step  10 whether it is the last step (0/1)
--        11 most ids to list  12 most partitions to look at, then ids
--        moves: T retry these, A retry all that are failed (ids come from the index), C cancel (8: who), L release
--        (8: who), N set priority (8: priority), P pause, M resume, D leave these as they are (8: the note on it or ''),
--        X fail the command (8: why)
-- Reply  {1}   {-1} floor refused   {-2, holder's term} the term is over   {-4} somebody carried it on since
--        {2} what C or L names is neither active nor recently completed: the archive may know it; nothing is done
-- Replay a step that was done finds another mark: {-4}; the caller reads the command again.
-- Cost   a constant number of commands, at most 500 partitions.

local refused = step_refused(KEYS[2], KEYS[3], ARGV[1], ARGV[4], ARGV[5])
if refused then return refused end
local now = now_us()
local last, floor = tonumber(redis.call('HGET', KEYS[1], 'last') or '0') or 0, tonumber(ARGV[2])
local stamp = next_stamp(last, now, floor)
if not stamp then return {-1} end
local version = text(stamp)
local before, move, argument = tonumber(ARGV[6]), ARGV[7], ARGV[8]
local _, _, done, cursor, skipped, listed, note, err =
  string.match(ARGV[5], '^(%a+) (%d+) (%d+) (%d+) (%d+) (%S+) (%S+) (.*)$')
done, skipped = tonumber(done), tonumber(skipped)

local ids, ended = {}, ARGV[10] == '1'
if move == 'A' then
  ids = redis.call('ZRANGEBYLEX', KEYS[9], '(' .. hex_text(tonumber(cursor)), '+', 'LIMIT', 0, ARGV[12])
  ended = #ids < tonumber(ARGV[12])
  if #ids > 0 then cursor = text(hex_number(ids[#ids]) or 2 ^ 53) end
else
  for i = 13, #ARGV do ids[#ids + 1] = ARGV[i] end
  cursor = ARGV[9]
end

local set_state, unqueued, unfailed, to_pending, to_suspects, to_failed, wishes = {}, {}, {}, {}, {}, {}, {}
local left = {}
if #ids > 0 then
  local specs, lines = redis.call('HMGET', KEYS[10], unpack(ids)), redis.call('HMGET', KEYS[11], unpack(ids))
  local scores, suspects = redis.call('ZMSCORE', KEYS[6], unpack(ids)), redis.call('ZMSCORE', KEYS[7], unpack(ids))
  local wished, completed = redis.call('HMGET', KEYS[12], unpack(ids)), redis.call('HMGET', KEYS[13], unpack(ids))
  for i, id in ipairs(ids) do
    local created = specs[i] and string.match(specs[i], '^%S+ %S+ (%x+)')
    created = created and hex_number(created)
    local s = lines[i] and read_state(lines[i])
    if created and not lines[i] then
      -- Plainly pending: no state yet.
      s = {status = 'P', token = '0', version = text(created), lease = '0', deliveries = 0, attempt = 0, checkpoint = '-',
        processed = '0', outcome = '-', retry = '0', worker = '-', err = '', priority = text(0 - tonumber(scores[i] or '0'))}
    end
    local there = created and s and created < before
    local changed = false
    if (move == 'T' or move == 'A') and (not specs[i] or (s and s.status ~= 'F')) then
      -- A write refused in the middle of a step may have left it there.
      unfailed[#unfailed + 1] = id
    end
    if there and (move == 'T' or move == 'A') then
      if s.status == 'F' and tonumber(s.version) < before then
        changed = true
        s.status, s.attempt, s.deliveries, s.retry = 'P', 0, 0, '0'
        to_pending[#to_pending + 1] = 0 - tonumber(s.priority)
        to_pending[#to_pending + 1] = id
        unfailed[#unfailed + 1] = id
      end
    elseif there and move == 'N' then
      if s.status == 'P' then
        changed = true
        s.priority = argument
        local target = scores[i] and to_pending or (suspects[i] and to_suspects or {})
        target[#target + 1] = 0 - tonumber(argument)
        target[#target + 1] = id
      end
    elseif there and s.status == 'P' and move == 'C' then
      changed, note = true, 'failed'
      s.status, s.retry, s.err = 'F', '0', 'cancelled by ' .. argument
      unqueued[#unqueued + 1] = id
      to_failed[#to_failed + 1] = 0
      to_failed[#to_failed + 1] = id
    elseif there and (s.status == 'R' or s.status == 'C') and (move == 'C' or move == 'L') then
      -- Its worker hears of it with its next beat. A release is meant for the claim of then; a cancel outranks it.
      if move == 'C' then
        wishes, note, done = {id, 'C ' .. argument}, 'asked', done + 1
      elseif tonumber(s.token) < before then
        if not wished[i] then wishes = {id, 'R ' .. argument} end
        note, done = 'asked', done + 1
      else
        note = s.status == 'R' and 'unchanged:running' or 'unchanged:claimed'
        left[#left + 1] = id
      end
    elseif move == 'C' or move == 'L' then
      if not created and not completed[i] then return {2} end
      local words = {P = 'pending', F = 'failed', C = 'claimed', R = 'running'}
      note = there and 'unchanged:' .. words[s.status] or (completed[i] and 'unchanged:completed' or 'unknown')
      left[#left + 1] = id
    end
    if changed then
      done = done + 1
      s.version = version
      set_state[#set_state + 1] = id
      set_state[#set_state + 1] = write_state(s)
    elseif move == 'T' or move == 'N' or move == 'D' then
      left[#left + 1] = id
    end
  end
end
if move == 'D' and argument ~= '' then note = argument end

note_loss(KEYS[1], last, floor, stamp)
-- Into the new index first, out of the old one last: see work.lua.
if #to_pending > 0 then redis.call('ZADD', KEYS[6], unpack(to_pending)) end
if #to_suspects > 0 then redis.call('ZADD', KEYS[7], unpack(to_suspects)) end
if #to_failed > 0 then redis.call('ZADD', KEYS[9], unpack(to_failed)) end
if #set_state > 0 then redis.call('HSET', KEYS[11], unpack(set_state)) end
if #unfailed > 0 then redis.call('ZREM', KEYS[9], unpack(unfailed)) end
if #unqueued > 0 then
  for k = 6, 8 do redis.call('ZREM', KEYS[k], unpack(unqueued)) end
end
if #wishes > 0 then redis.call('HSET', KEYS[12], unpack(wishes)) end
if move == 'P' then
  done = done + (redis.call('HEXISTS', KEYS[1], 'paused') == 0 and 1 or 0)
  redis.call('HSET', KEYS[1], 'paused', version)
elseif move == 'M' then
  done = done + redis.call('HDEL', KEYS[1], 'paused')
end

local room, names = tonumber(ARGV[11]) - skipped, {}
for i = 1, math.min(room, #left) do names[i] = text(hex_number(left[i]) or 0) end
if #names > 0 then listed = (listed == '-' and '' or listed .. ',') .. table.concat(names, ',') end
skipped = skipped + #left
local state = ended and 'done' or 'running'
if move == 'X' then state, err = 'failed', argument end
redis.call('HSET', KEYS[1], 'last', version)
write_step(KEYS[3], KEYS[4], KEYS[5], ARGV[4], state, now, string.format('%d', done) .. ' ' .. cursor .. ' '
  .. string.format('%d', skipped) .. ' ' .. listed .. ' ' .. note .. ' ' .. err)
if #to_pending > 0 or move == 'M' then redis.pcall('PUBLISH', ARGV[3], 'work') end
return {1}
