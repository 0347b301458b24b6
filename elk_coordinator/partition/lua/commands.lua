-- Some operator's commands: one by its id, the oldest that has not ended, or the newest ones.
--
-- KEYS   1 commands  2 command_state  3 command_queue  4 command_ended
-- ARGV   1 'id', 'first' or 'newest'  2 the id, or how many of the newest (at most 1,000)
-- Reply  {number not ended, id, head, state, id, head, state, ...}; head is "stamp JSON"
-- Cost   a constant number of commands; reads only.

local names
if ARGV[1] == 'id' then
  names = {ARGV[2]}
elseif ARGV[1] == 'first' then
  names = redis.call('ZRANGE', KEYS[3], 0, 0)
else
  -- They end in order of submission, so everything that waits is newer than everything that has ended.
  names = redis.call('ZREVRANGE', KEYS[3], 0, ARGV[2] - 1)
  local ended = redis.call('ZREVRANGE', KEYS[4], 0, ARGV[2] - 1)
  for _, id in ipairs(ended) do
    if #names < tonumber(ARGV[2]) then names[#names + 1] = id end
  end
end
local reply = {redis.call('ZCARD', KEYS[3])}
if #names > 0 then
  local heads = redis.call('HMGET', KEYS[1], unpack(names))
  local states = redis.call('HMGET', KEYS[2], unpack(names))
  for i, id in ipairs(names) do
    if heads[i] and states[i] then
      reply[#reply + 1] = id
      reply[#reply + 1] = heads[i]
      reply[#reply + 1] = states[i]
    end
  end
end
return reply
