-- include: stamp.lua state.lua
-- Claim one partition by its id, as running.
--
-- KEYS   1 meta  2 streams  3 pending  4 suspects  5 delayed  6 leases  7 claimed  8 failed  9 specs  10 state
--        11 cancels
-- ARGV   1 stream  2 sequence number  3 floor  4 worker  5 lease_ms  6 id  7 preempt (0/1)  8 force (0/1)
--        9 max_deliveries
-- Reply  {1, spec, state, deadline (ms)} granted   {2} not to be had: leased, failed, lost too often, or all are paused
--        {3} no such active partition   {4} its record cannot be read
--        {0} stale: a later request of this stream ran already   {-1} floor refused
--        preempt: also when its lease ran out; force: also when it has not (the old holder learns at its next beat)
-- Replay an equal sequence number gets its grant again while it still stands.
-- Cost   a constant number of commands.

local now = now_us()
local now_ms = math.floor(now / 1000)
local last, floor = tonumber(redis.call('HGET', KEYS[1], 'last') or '0') or 0, tonumber(ARGV[3])
local stamp = next_stamp(last, now, floor)
if not stamp then return {-1} end
local id = ARGV[6]
local spec = redis.call('HGET', KEYS[9], id)
local line = redis.call('HGET', KEYS[10], id)
local s = line and read_state(line)

local previous = redis.call('HGET', KEYS[2], ARGV[1])
if previous and string.match(previous, '^%d+ %S* %d+ %S*$') then
  local seq, _, first, ids = string.match(previous, '^(%d+) (%S*) (%d+) (%S*)$')
  if tonumber(seq) > tonumber(ARGV[2]) then return {0} end
  if tonumber(seq) == tonumber(ARGV[2]) then
    if ids == id and s and s.token == first and s.status == 'R' then
      return {1, spec, line, redis.call('ZSCORE', KEYS[6], id) or ''}
    end
    return {2}
  end
end
if not spec then return {3} end
-- Damage is not "plainly pending": somebody may hold it.
if (line and not s) or not string.match(spec, '^%-?%x+ %x+ %x+') then return {4} end
if ARGV[8] ~= '1' and redis.call('HEXISTS', KEYS[1], 'paused') == 1 then return {2} end
note_loss(KEYS[1], last, floor, stamp)
if not s then
  local score = redis.call('ZSCORE', KEYS[3], id) or '0'
  s = {status = 'P', deliveries = 0, attempt = 0, checkpoint = '-', processed = '0', err = '',
    priority = text(0 - tonumber(score))}
end
local granted = s.status == 'P'
if s.status == 'R' or s.status == 'C' then
  local deadline = tonumber(redis.call('ZSCORE', KEYS[6], id) or '0')
  if ARGV[8] == '1' then
    granted = true
    -- A release was meant for the claim that ends here; a cancel is meant for the partition.
    if string.match(redis.call('HGET', KEYS[11], id) or '', '^R ') then redis.call('HDEL', KEYS[11], id) end
  elseif ARGV[7] == '1' and math.min(deadline, now_ms + tonumber(s.lease)) <= now_ms then
    granted = true
    s.deliveries = s.deliveries + 1
    local who = string.match(redis.call('HGET', KEYS[11], id) or '', '^C (.*)$')
    redis.call('HDEL', KEYS[11], id)
    if who or s.deliveries >= tonumber(ARGV[9]) then
      granted = false
      s.status, s.version, s.lease, s.outcome, s.retry = 'F', text(stamp), '0', 'L', '0'
      s.err = string.format('lost %d times by workers that died or froze while they held it, last by %s',
        s.deliveries, s.worker)
      if who then s.err = 'cancelled by ' .. who end
      redis.call('ZADD', KEYS[8], 0, id)
      redis.call('HSET', KEYS[10], id, write_state(s))
      redis.call('ZREM', KEYS[6], id)
      redis.call('SREM', KEYS[7], id)
    end
  end
end
local reply = {2}
if granted then
  s.status, s.token, s.version, s.lease = 'R', text(stamp), text(stamp), ARGV[5]
  s.worker, s.outcome, s.retry = ARGV[4], '-', '0'
  line = write_state(s)
  redis.call('ZADD', KEYS[6], text(now_ms + tonumber(ARGV[5])), id)
  redis.call('HSET', KEYS[10], id, line)
  redis.call('ZREM', KEYS[3], id)
  redis.call('ZREM', KEYS[4], id)
  redis.call('ZREM', KEYS[5], id)
  redis.call('SREM', KEYS[7], id)
  reply = {1, spec, line, text(now_ms + tonumber(ARGV[5]))}
end
redis.call('HSET', KEYS[1], 'last', text(stamp))
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2] .. '  ' .. text(stamp) .. ' ' .. (granted and id or ''))
return reply
