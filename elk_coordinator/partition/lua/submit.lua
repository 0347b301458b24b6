-- include: stamp.lua
-- Queue an operator's command behind all others.
--
-- KEYS   1 meta  2 commands  3 command_state  4 command_queue
-- ARGV   1 floor  2 command id, drawn by the client  3 kind, arguments and by whom, as JSON  4 most that may wait
--        5 channel
-- Reply  {1} queued   {2, waiting} too many wait   {-1} floor refused
-- Replay the same id again is queued already: {1}, nothing done.
-- Cost   a constant number of commands.

if redis.call('HEXISTS', KEYS[2], ARGV[2]) == 1 then return {1} end
local waiting = redis.call('ZCARD', KEYS[4])
if waiting >= tonumber(ARGV[4]) then return {2, waiting} end
local now = now_us()
local last, floor = tonumber(redis.call('HGET', KEYS[1], 'last') or '0') or 0, tonumber(ARGV[1])
local stamp = next_stamp(last, now, floor)
if not stamp then return {-1} end
note_loss(KEYS[1], last, floor, stamp)
redis.call('HSET', KEYS[1], 'last', text(stamp))
redis.call('HSET', KEYS[2], ARGV[2], text(stamp) .. ' ' .. ARGV[3])
redis.call('HSET', KEYS[3], ARGV[2], 'queued ' .. text(now) .. ' 0 0 0 - - ')
redis.call('ZADD', KEYS[4], text(stamp), ARGV[2])
redis.pcall('PUBLISH', ARGV[5], 'command')
return {1}
