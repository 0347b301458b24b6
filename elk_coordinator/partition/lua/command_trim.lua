-- Keep less of what an ended command was asked: its arguments may be a megabyte, and its result is kept for a day.
--
-- KEYS   1 commands  2 command_state
-- ARGV   1 command id  2 kind, arguments and by whom, as JSON
-- Reply  {1}   {0} it has not ended, or is gone
-- Replay safe.  Cost a constant number of commands.

local head = redis.call('HGET', KEYS[1], ARGV[1])
local state = string.match(redis.call('HGET', KEYS[2], ARGV[1]) or '', '^(%a+) ')
if not head or (state ~= 'done' and state ~= 'failed') then return {0} end
redis.call('HSET', KEYS[1], ARGV[1], string.match(head, '^%d+ ') .. ARGV[2])
return {1}
