-- One page of the field names of a hash, or of the members of a sorted set or set, unordered.
--
-- KEYS   1 the hash, sorted set or set
-- ARGV   1 cursor  2 count  3 HSCAN, ZSCAN or SSCAN
-- Reply  {next cursor ('0' at the end), name, name, ...}; a name may come twice
-- Cost   one command over some count entries; reads only.

local page = redis.call(ARGV[3], KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local reply = {page[1]}
local step = ARGV[3] == 'SSCAN' and 1 or 2
for i = 1, #page[2], step do reply[#reply + 1] = page[2][i] end
return reply
