-- include: stamp.lua
-- The live workers; those silent beyond their time by an hour are dropped, with the streams they name in their info.
--
-- KEYS   1 workers  2 worker_info  3 streams
-- ARGV   1 limit
-- Reply  {name, remaining_ms, info, name, remaining_ms, info, ...} of those still alive
-- Replay safe.  Cost a constant number of commands (plus one per 100 workers gone).

local now_ms = math.floor(now_us() / 1000)
local gone = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', text(now_ms - 3600000), 'LIMIT', 0, 100)
if #gone > 0 then
  local infos = redis.call('HMGET', KEYS[2], unpack(gone))
  local streams = {}
  for i = 1, #gone do
    local nonce = infos[i] and string.match(infos[i], '"nonce": ?"(%x+)"')
    if nonce then
      streams[#streams + 1] = nonce .. ':work'
      streams[#streams + 1] = nonce .. ':beat'
    end
  end
  redis.call('ZREM', KEYS[1], unpack(gone))
  redis.call('HDEL', KEYS[2], unpack(gone))
  if #streams > 0 then redis.call('HDEL', KEYS[3], unpack(streams)) end
end
local alive = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. text(now_ms), '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[1])
local reply = {}
if #alive > 0 then
  local names = {}
  for i = 1, #alive, 2 do names[#names + 1] = alive[i] end
  local infos = redis.call('HMGET', KEYS[2], unpack(names))
  for i, name in ipairs(names) do
    reply[#reply + 1] = name
    reply[#reply + 1] = text(tonumber(alive[i * 2]) - now_ms)
    reply[#reply + 1] = infos[i] or '{}'
  end
end
return reply
