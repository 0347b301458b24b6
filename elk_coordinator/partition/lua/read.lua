-- The records of some partitions, active or done, and the indexes that hold them.
--
-- KEYS   1 specs  2 state  3 done  4 leases  5 pending  6 suspects  7 delayed  8 failed  9 claimed
-- ARGV   ids, at most 500
-- Reply  per id: spec, state, done record, lease deadline (ms), -priority while claimable ('' for what is not there),
--        and the letters of the indexes it is in: p pending, s suspects, d delayed, l leases, c claimed, f failed
-- Cost   a constant number of commands; reads only.

local specs = redis.call('HMGET', KEYS[1], unpack(ARGV))
local states = redis.call('HMGET', KEYS[2], unpack(ARGV))
local done = redis.call('HMGET', KEYS[3], unpack(ARGV))
local leases = redis.call('ZMSCORE', KEYS[4], unpack(ARGV))
local pending = redis.call('ZMSCORE', KEYS[5], unpack(ARGV))
local suspects = redis.call('ZMSCORE', KEYS[6], unpack(ARGV))
local delayed = redis.call('ZMSCORE', KEYS[7], unpack(ARGV))
local failed = redis.call('ZMSCORE', KEYS[8], unpack(ARGV))
local claimed = redis.call('SMISMEMBER', KEYS[9], unpack(ARGV))
local reply = {}
for i = 1, #ARGV do
  reply[#reply + 1] = specs[i] or ''
  reply[#reply + 1] = states[i] or ''
  reply[#reply + 1] = done[i] or ''
  reply[#reply + 1] = leases[i] or ''
  reply[#reply + 1] = pending[i] or suspects[i] or ''
  reply[#reply + 1] = (pending[i] and 'p' or '') .. (suspects[i] and 's' or '') .. (delayed[i] and 'd' or '')
    .. (leases[i] and 'l' or '') .. (claimed[i] == 1 and 'c' or '') .. (failed[i] and 'f' or '')
end
return reply
