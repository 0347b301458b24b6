-- include: stamp.lua
-- Take a lock that is free, given up or run out. The token is a stamp: above every earlier one, also after data loss.
--
-- KEYS   1 meta  2 lock
-- ARGV   1 owner (a label)  2 ttl_ms  3 floor  4 name of this request: "nonce:number", the numbers rising
-- Reply  {1, token, lost_data}   {0, 0, 0} somebody holds it   {-1, 0, 0} floor refused
-- Replay the lock keeps the name of the request that took it: an equal one gets the same token again, and at least its
--        ttl from now, while the lock is held under it; after that it is refused, like one that its caller's next overtook.
-- Cost   a constant number of commands.

local lock = redis.call('HMGET', KEYS[2], 'deadline', 'ttl', 'token', 'request')
local now = now_us()
local now_ms = math.floor(now / 1000)
-- Has this request, or a later one of its caller, taken the lock before?
local nonce, number = string.match(ARGV[4], '^(.*):(%d+)$')
local taker, took = string.match(lock[4] or '', '^(.*):(%d+)$')
if taker and taker == nonce and tonumber(took) >= tonumber(number) then
  if took ~= number or (tonumber(lock[1] or '') or 0) <= now_ms then return {0, 0, 0} end
  local deadline = now_ms + tonumber(ARGV[2])
  if deadline > tonumber(lock[1]) then redis.call('HSET', KEYS[2], 'ttl', ARGV[2], 'deadline', text(deadline)) end
  return {1, lock[3], 0}
end
-- A deadline that cannot be read is none: who held the lock is refused by its token, and somebody must lead.
if tonumber(lock[1] or '') and tonumber(lock[2] or '') then
  -- The server's clock was set back: a lock never lasts longer than its own length from now.
  if tonumber(lock[1]) > now_ms + tonumber(lock[2]) then
    redis.call('HSET', KEYS[2], 'deadline', text(now_ms + tonumber(lock[2])))
    return {0, 0, 0}
  end
  if tonumber(lock[1]) > now_ms then return {0, 0, 0} end
end
local last = tonumber(redis.call('HGET', KEYS[1], 'last') or '0') or 0
local floor = tonumber(ARGV[3])
local stamp = next_stamp(last, now, floor)
if not stamp then return {-1, 0, 0} end
note_loss(KEYS[1], last, floor, stamp)
redis.call('HSET', KEYS[2], 'token', text(stamp), 'owner', ARGV[1], 'ttl', ARGV[2],
  'deadline', text(now_ms + tonumber(ARGV[2])), 'request', ARGV[4])
redis.call('HSET', KEYS[1], 'last', text(stamp))
return {1, text(stamp), floor > last and 1 or 0}
