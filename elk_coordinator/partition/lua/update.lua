-- include: stamp.lua hex.lua state.lua
-- Change options, error and, while it is pending, the priority of one active partition.
--
-- KEYS   1 meta  2 pending  3 suspects  4 specs  5 state  6 streams
-- ARGV   1 floor  2 id  3 expected version, or '' for any  4 options JSON or ''  5 error or ''  6 priority
--        7 stream  8 sequence number
-- Reply  {1, new version}   {0, found version} it changed meanwhile   {2, found version} priority, but it is not pending
--        {3} no such active partition   {4} its record cannot be read   {-1} floor refused
-- Replay an equal sequence number gets its first answer again.
-- Cost   a constant number of commands.

local id = ARGV[2]
local seq, version = string.match(redis.call('HGET', KEYS[6], ARGV[7]) or '', '^(%d+) (%d+)$')
if seq == ARGV[8] then return {1, version} end
local spec = redis.call('HGET', KEYS[4], id)
if not spec then return {3} end
local head, created = string.match(spec, '^(%S+ %S+ (%S+))')
created = created and hex_number(created)
local line = redis.call('HGET', KEYS[5], id)
local s = line and read_state(line)
-- Damage is not "plainly pending": it is left as it is, for verify to name.
if (line and not s) or not created then return {4} end
local score = redis.call('ZSCORE', KEYS[2], id)
local index = KEYS[2]
if not score then
  score = redis.call('ZSCORE', KEYS[3], id)
  index = KEYS[3]
end
if not s then
  -- Plainly pending: no state yet.
  s = {status = 'P', token = '0', version = text(created), lease = '0', deliveries = 0, attempt = 0, checkpoint = '-',
    processed = '0', outcome = '-', retry = '0', worker = '-', err = '', priority = text(0 - tonumber(score or '0'))}
end
if ARGV[3] ~= '' and ARGV[3] ~= s.version then return {0, s.version} end
if s.priority ~= ARGV[6] and s.status ~= 'P' then return {2, s.version} end
local last, floor = tonumber(redis.call('HGET', KEYS[1], 'last') or '0') or 0, tonumber(ARGV[1])
local stamp = next_stamp(last, now_us(), floor)
if not stamp then return {-1} end
note_loss(KEYS[1], last, floor, stamp)
s.version, s.err, s.priority = text(stamp), ARGV[5], ARGV[6]
if score then redis.call('ZADD', index, text(0 - tonumber(s.priority)), id) end
if ARGV[4] ~= '' then head = head .. ' ' .. ARGV[4] end
redis.call('HSET', KEYS[4], id, head)
redis.call('HSET', KEYS[5], id, write_state(s))
redis.call('HSET', KEYS[1], 'last', text(stamp))
redis.call('HSET', KEYS[6], ARGV[7], ARGV[8] .. ' ' .. text(stamp))
return {1, text(stamp)}
