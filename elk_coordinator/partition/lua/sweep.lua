-- include: stamp.lua state.lua
-- Take back partitions whose lease ran out (by the server's clock), and look at what the leader wants to know.
-- Anybody may run it: the deadline alone decides, never who asks and never the worker registry.
--
-- KEYS   1 meta  2 leases  3 state  4 claimed  5 pending  6 suspects  7 delayed  8 failed  9 corrupt  10 lock:leader
--        11 cancels  12 command_queue  13 specs
-- ARGV   1 limit (at most 500)  2 max_deliveries  3 floor  4 term of the leader, or '' for a worker
--        5 lease_ms of the caller: deadlines further ahead than that are checked against their own length
--        6 longest pause before a retry, in ms, or '': none waits longer than that from now
-- Reply  {1, now_us, more, hungry, pending, held, id, worker, token, deliveries, status, error, ...}  {-1} floor refused
--        hungry: 1 workers ran low since the leader's last round, which clears that mark (plan_state); 2 somebody waits
--        for a full round, cleared for the leader of the term only; 4 more when operators' commands wait
-- Replay safe: what was taken back is no longer leased.
-- Cost   a constant number of commands.

local meta = redis.call('HMGET', KEYS[1], 'last', 'hungry', 'asked')
local now = now_us()
local now_ms = math.floor(now / 1000)
local last, floor = tonumber(meta[1] or '0') or 0, tonumber(ARGV[3])
local stamp = next_stamp(last, now, floor)
if not stamp then return {-1} end
local limit, max_deliveries = tonumber(ARGV[1]), tonumber(ARGV[2])

-- The server's clock was set back: no lease may outlive its own length from now.
local top = redis.call('ZRANGE', KEYS[2], -limit, -1, 'WITHSCORES')
if #top > 0 and tonumber(top[#top]) > now_ms + tonumber(ARGV[5]) then
  local names = {}
  for i = 1, #top, 2 do names[#names + 1] = top[i] end
  local lines, clamped = redis.call('HMGET', KEYS[3], unpack(names)), {}
  for i, id in ipairs(names) do
    local s = lines[i] and read_state(lines[i])
    if s and tonumber(top[i * 2]) > now_ms + tonumber(s.lease) then
      clamped[#clamped + 1] = text(now_ms + tonumber(s.lease))
      clamped[#clamped + 1] = id
    end
  end
  if #clamped > 0 then redis.call('ZADD', KEYS[2], unpack(clamped)) end
end

-- Nor may a retry wait for as long as the clock was set back.
if ARGV[6] ~= '' then
  local latest = text(now_ms + tonumber(ARGV[6]))
  local far = redis.call('ZRANGEBYSCORE', KEYS[7], '(' .. latest, '+inf', 'LIMIT', 0, limit)
  if #far > 0 then
    local lines, sooner, lines_set = redis.call('HMGET', KEYS[3], unpack(far)), {}, {}
    for i, id in ipairs(far) do
      sooner[#sooner + 1] = latest
      sooner[#sooner + 1] = id
      local s = lines[i] and read_state(lines[i])
      if s then
        s.retry = latest
        lines_set[#lines_set + 1] = id
        lines_set[#lines_set + 1] = write_state(s)
      end
    end
    redis.call('ZADD', KEYS[7], unpack(sooner))
    if #lines_set > 0 then redis.call('HSET', KEYS[3], unpack(lines_set)) end
  end
end

local expired = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now_ms, 'LIMIT', 0, limit)
local reply = {1, text(now), 0, 0, 0, 0}
if #expired > 0 then
  local lines = redis.call('HMGET', KEYS[3], unpack(expired))
  local wishes = redis.call('HMGET', KEYS[11], unpack(expired))
  local set_state, to_pending, to_suspects, to_failed, broken = {}, {}, {}, {}, {}
  for i, id in ipairs(expired) do
    local s = lines[i] and read_state(lines[i])
    if s and (s.status == 'R' or s.status == 'C') then
      s.deliveries = s.deliveries + 1
      s.version, s.lease, s.outcome, s.retry = text(stamp), '0', 'L', '0'
      local target = to_pending
      local who = wishes[i] and string.match(wishes[i], '^C (.*)$')
      if who then
        -- An operator cancelled it while it was held.
        s.status, s.err = 'F', 'cancelled by ' .. who
        to_failed[#to_failed + 1] = 0
        to_failed[#to_failed + 1] = id
      elseif s.deliveries >= max_deliveries then
        s.status = 'F'
        s.err = string.format('lost %d times by workers that died or froze while they held it, last by %s',
          s.deliveries, s.worker)
        to_failed[#to_failed + 1] = 0
        to_failed[#to_failed + 1] = id
      else
        s.status = 'P'
        if s.deliveries >= 2 then target = to_suspects end
        target[#target + 1] = 0 - tonumber(s.priority)
        target[#target + 1] = id
      end
      set_state[#set_state + 1] = id
      set_state[#set_state + 1] = write_state(s)
      for _, fact in ipairs({id, s.worker, s.token, string.format('%d', s.deliveries), s.status, s.err}) do
        reply[#reply + 1] = fact
      end
    elseif not s then
      broken[#broken + 1] = id
    end
  end
  if #to_pending > 0 then redis.call('ZADD', KEYS[5], unpack(to_pending)) end
  if #to_suspects > 0 then redis.call('ZADD', KEYS[6], unpack(to_suspects)) end
  if #to_failed > 0 then redis.call('ZADD', KEYS[8], unpack(to_failed)) end
  if #set_state > 0 then redis.call('HSET', KEYS[3], unpack(set_state)) end
  if #broken > 0 then
    -- What has no record any more was completed by a step whose last write was refused: only its lease is left.
    local specs, damaged = redis.call('HMGET', KEYS[13], unpack(broken)), {}
    for i, id in ipairs(broken) do
      if specs[i] then damaged[#damaged + 1] = id end
    end
    if #damaged > 0 then redis.call('SADD', KEYS[9], unpack(damaged)) end
  end
  -- Out of the leases last: see work.lua.
  redis.call('ZREM', KEYS[2], unpack(expired))
  redis.call('SREM', KEYS[4], unpack(expired))
  redis.call('HDEL', KEYS[11], unpack(expired))
  note_loss(KEYS[1], last, floor, stamp)
  redis.call('HSET', KEYS[1], 'last', text(stamp))
  if #expired == limit then reply[3] = 1 end
end
if meta[3] then
  reply[4] = 2
elseif meta[2] then
  reply[4] = 1
end
if ARGV[4] ~= '' then
  if meta[3] and redis.call('HGET', KEYS[10], 'token') == ARGV[4] then
    redis.call('HDEL', KEYS[1], 'asked')
  end
  reply[5] = redis.call('ZCARD', KEYS[5]) + redis.call('ZCARD', KEYS[6]) + redis.call('ZCARD', KEYS[7])
  reply[6] = redis.call('ZCARD', KEYS[2])
  if redis.call('ZCARD', KEYS[12]) > 0 then reply[4] = reply[4] + 4 end
end
return reply
