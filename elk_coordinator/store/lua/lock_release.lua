-- Give a lock up. The record stays, so that a plan under the old token is still known to be late.
--
-- KEYS   1 lock
-- ARGV   1 token  2 channel  3 hint
-- Reply  {1} released   {0} it was not held under this token
-- Replay safe.  Cost a constant number of commands.

local lock = redis.call('HMGET', KEYS[1], 'token', 'deadline')
if lock[1] ~= ARGV[1] or lock[2] == '0' then return {0} end
redis.call('HSET', KEYS[1], 'deadline', '0', 'token', '0')
-- Publishing may be forbidden to this user; followers then wait out their poll.
redis.pcall('PUBLISH', ARGV[2], ARGV[3])
return {1}
