-- Set a partition aside whose record cannot be read, so that the rest goes on; verify and doctor name it.
--
-- KEYS   1 corrupt  2 pending  3 suspects  4 delayed  5 leases  6 claimed  7 failed
-- ARGV   ids, at most 500
-- Reply  {number newly set aside}
-- Replay safe.  Cost a constant number of commands.

for i = 2, 7 do
  redis.call(i == 6 and 'SREM' or 'ZREM', KEYS[i], unpack(ARGV))
end
return {redis.call('SADD', KEYS[1], unpack(ARGV))}
