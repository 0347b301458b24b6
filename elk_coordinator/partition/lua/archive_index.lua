-- The line of every chunk of the archive; also of a chunk that has lost its line.
--
-- KEYS   1 archive_index  2 archive
-- ARGV   none
-- Reply  {field, line, field, line, ...}
-- Cost   a constant number of commands over one entry per 2,000 archived partitions; reads only.

local reply = redis.call('HGETALL', KEYS[1])
if redis.call('HLEN', KEYS[2]) ~= #reply / 2 then
  local known = {}
  for i = 1, #reply, 2 do known[reply[i]] = true end
  for _, name in ipairs(redis.call('HKEYS', KEYS[2])) do
    if not known[name] then
      reply[#reply + 1] = name
      reply[#reply + 1] = ''
    end
  end
end
return reply
