-- One page of a set of merged intervals, in order, with the version of the plan it belongs to.
--
-- KEYS   1 meta  2 planned or skipped
-- ARGV   1 first member to return (20 digits; '' = from the start)  2 limit
-- Reply  {version, "hi:lo", "hi:lo", ...}; the members are ordered by their upper end
-- Cost   a constant number of commands; reads only.

local from = '-'
if ARGV[1] ~= '' then from = '[' .. ARGV[1] end
local reply = {redis.call('HGET', KEYS[1], 'planned_version') or '0'}
for _, member in ipairs(redis.call('ZRANGEBYLEX', KEYS[2], from, '+', 'LIMIT', 0, ARGV[2])) do
  reply[#reply + 1] = member
end
return reply
