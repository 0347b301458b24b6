-- Which commands the user of this connection may not run. Nothing is run.
--
-- KEYS   1 any key of the namespace
-- ARGV   1 its channel  2... a command each, words parted by single spaces; KEY and CHANNEL stand for the two
-- Reply  {1, number of each command that is refused}   {0} the server cannot tell (before 7.0)
-- Cost   reads nothing.

if not redis.acl_check_cmd then return {0} end
local reply = {1}
for i = 2, #ARGV do
  local words = {}
  for word in string.gmatch(ARGV[i], '%S+') do
    if word == 'KEY' then word = KEYS[1] elseif word == 'CHANNEL' then word = ARGV[1] end
    words[#words + 1] = word
  end
  -- A command that the server does not know raises an error: that one cannot be run either.
  local known, may = pcall(redis.acl_check_cmd, unpack(words))
  if not known or not may then reply[#reply + 1] = i - 1 end
end
return reply
