-- include: stamp.lua
-- What the leader shows to monitoring: pending by priority, the oldest, the ranges still open, archive, commands.
-- Numbers of partitions beyond ARGV[1] are looked at by a sample; the reply says so.
--
-- KEYS   1 meta  2 pending  3 suspects  4 delayed  5 failed  6 specs  7 archive  8 archive_index  9 command_queue
-- ARGV   1 the most active partitions of which all are read  2 how many are sampled when there are more
-- Reply  {now_us, archived, commands that have not ended, chunks, bytes of the chunks looked at, chunks looked at,
--         suspects, delayed, 1 when every range is there, {-priority, count, ...}, {min span created, ...} of those
--         that may be the oldest, {min span created[ F], ...}}; F = rests as failed
-- Cost   a constant number of commands, none of them long: at most ARGV[1] ranges, the walk over priorities ends after
--        ten; reads only.

local groups, oldest = {}, {}
local function group(key, first)
  groups[#groups + 1] = first[2]
  groups[#groups + 1] = redis.call('ZCOUNT', key, first[2], first[2])
  oldest[#oldest + 1] = first[1]
end
local function walk(key)
  local from = '-inf'
  for _ = 1, 9 do
    local first = redis.call('ZRANGEBYSCORE', key, from, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
    if #first == 0 then return end
    group(key, first)
    from = '(' .. first[2]
  end
  -- The lowest priority of all: what starves, starves there.
  if #redis.call('ZRANGEBYSCORE', key, from, '+inf', 'LIMIT', 0, 1) > 0 then
    local last = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')
    group(key, redis.call('ZRANGEBYSCORE', key, last[2], last[2], 'WITHSCORES', 'LIMIT', 0, 1))
  end
end
walk(KEYS[2])
walk(KEYS[3])
for _, key in ipairs({KEYS[3], KEYS[4]}) do
  for _, id in ipairs(redis.call('ZRANGE', key, 0, 9)) do oldest[#oldest + 1] = id end
end
local created = {}
if #oldest > 0 then
  for i, spec in ipairs(redis.call('HMGET', KEYS[6], unpack(oldest))) do
    created[i] = spec and string.match(spec, '^%-?%x+ %x+ %x+') or ''
  end
end

local complete = redis.call('HLEN', KEYS[6]) <= tonumber(ARGV[1])
local flat
if complete then
  flat = redis.call('HGETALL', KEYS[6])
else
  flat = redis.call('HSCAN', KEYS[6], '0', 'COUNT', ARGV[2])[2]
end
local names, ranges = {}, {}
for i = 1, #flat, 2 do
  names[#names + 1] = flat[i]
  ranges[#ranges + 1] = string.match(flat[i + 1], '^%-?%x+ %x+ %x+') or ''
end
for start = 1, #names, 1000 do
  local last = math.min(start + 999, #names)
  for i, score in ipairs(redis.call('ZMSCORE', KEYS[5], unpack(names, start, last))) do
    if score then ranges[start + i - 1] = ranges[start + i - 1] .. ' F' end
  end
end

local bytes, looked = 0, 0
local lines = redis.call('HSCAN', KEYS[8], '0', 'COUNT', '10')[2]
for i = 1, math.min(#lines, 20), 2 do
  bytes = bytes + redis.call('HSTRLEN', KEYS[7], lines[i])
  looked = looked + 1
end
return {
  text(now_us()), redis.call('HGET', KEYS[1], 'archived') or '0', redis.call('ZCARD', KEYS[9]),
  redis.call('HLEN', KEYS[8]), bytes, looked, redis.call('ZCARD', KEYS[3]), redis.call('ZCARD', KEYS[4]),
  complete and 1 or 0, groups, created, ranges,
}
