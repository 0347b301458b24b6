-- include: stamp.lua state.lua
-- Make a running partition's progress durable. Only forward, only under the current token and an unexpired lease.
--
-- KEYS   1 meta  2 leases  3 state
-- ARGV   1 floor  2 id  3 token  4 checkpoint (20 digits)  5 processed so far, all attempts
-- Reply  {1} durable (also when a later one is already)   {0} the claim is gone   {-1} floor refused
-- Replay safe: a checkpoint never moves back, so a late or repeated request changes nothing.
-- Cost   a constant number of commands.

local line = redis.call('HGET', KEYS[3], ARGV[2])
local s = line and read_state(line)
if not s or s.token ~= ARGV[3] or (s.status ~= 'R' and s.status ~= 'C') then return {0} end
local now = now_us()
local deadline = redis.call('ZSCORE', KEYS[2], ARGV[2])
if not deadline or tonumber(deadline) <= math.floor(now / 1000) then return {0} end
if s.checkpoint ~= '-' and s.checkpoint >= ARGV[4] then return {1} end
local last, floor = tonumber(redis.call('HGET', KEYS[1], 'last') or '0') or 0, tonumber(ARGV[1])
local stamp = next_stamp(last, now, floor)
if not stamp then return {-1} end
note_loss(KEYS[1], last, floor, stamp)
-- Progress proves that it is not poison: the count of deliveries starts again.
s.version, s.checkpoint, s.processed, s.deliveries = text(stamp), ARGV[4], ARGV[5], 0
redis.call('HSET', KEYS[3], ARGV[2], write_state(s))
redis.call('HSET', KEYS[1], 'last', text(stamp))
return {1}
