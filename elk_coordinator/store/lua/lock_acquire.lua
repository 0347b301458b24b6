-- include: stamp.lua
-- Take a lock that is free, given up or run out. The token is a stamp: above every earlier one, also after data loss.
--
-- KEYS   1 meta  2 lock
-- ARGV   1 owner (a label)  2 ttl_ms  3 floor
-- Reply  {1, token, lost_data}   {0, 0, 0} somebody holds it   {-1, 0, 0} floor refused
-- Replay a repeated request finds the lock taken (by itself) and waits it out; at most one ttl is lost, never two holders.
-- Cost   a constant number of commands.

local lock = redis.call('HMGET', KEYS[2], 'deadline', 'ttl')
local now = now_us()
local now_ms = math.floor(now / 1000)
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
  'deadline', text(now_ms + tonumber(ARGV[2])))
redis.call('HSET', KEYS[1], 'last', text(stamp))
return {1, text(stamp), floor > last and 1 or 0}
