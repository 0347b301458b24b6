-- Leave a mark in the namespace's meta record: what the leader's round found, or that somebody waits for a round.
--
-- KEYS   1 meta  2 lock:leader
-- ARGV   1 term of the leader, or '' for anybody  2 channel, or '' for no hint
--        then field, value pairs
-- Reply  {1}   {0} the term is over
-- Replay safe.  Cost a constant number of commands.

if ARGV[1] ~= '' and redis.call('HGET', KEYS[2], 'token') ~= ARGV[1] then return {0} end
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
if ARGV[2] ~= '' then redis.pcall('PUBLISH', ARGV[2], 'asked') end
return {1}
