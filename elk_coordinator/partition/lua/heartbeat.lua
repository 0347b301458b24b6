-- include: stamp.lua state.lua
-- A worker's proof of life: registers it, renews every lease it names, tells which are gone and what is wanted of it.
-- Creates whatever is missing, so that a worker is visible again one beat after the store lost its data.
--
-- KEYS   1 meta  2 workers  3 worker_info  4 leases  5 state  6 cancels  7 streams
-- ARGV   1 stream  2 sequence number  3 floor  4 worker  5 ttl_ms (0: leave the registry alone)  6 info (JSON)  7 lease_ms
--        8 schema  9 strategy  10 number of claims, then per claim: id, token
-- Reply  {1, last stamp, stamp of the last known loss of data ('0' = none), paused, config_version, a letter per claim,
--         now_us, id, wish, id, wish, ...}
--        letters: h held and renewed, x gone (taken, reported, or expired: an expired lease is never renewed)
--        {0} stale: a later beat ran already  {-1} floor refused  {-2, schema, strategy} the namespace is another's
-- Replay an equal sequence number renews once more, which changes nothing but the deadline.
-- Cost   a constant number of commands, at most 500 claims.

local meta = redis.call('HMGET', KEYS[1], 'last', 'paused', 'config_version', 'schema', 'strategy', 'lost')
local now = now_us()
local now_ms = math.floor(now / 1000)
local last = tonumber(meta[1] or '0') or 0
local floor = tonumber(ARGV[3])
local stamp = next_stamp(last, now, floor)
if not stamp then return {-1} end
-- N reads N - 1; anything else, or another strategy, is refused before the first write.
if meta[4] and (not tonumber(meta[4]) or tonumber(meta[4]) > tonumber(ARGV[8]) or tonumber(meta[4]) < tonumber(ARGV[8]) - 1
    or meta[5] ~= ARGV[9]) then
  return {-2, meta[4], meta[5]}
end
-- What cannot be read is as good as gone: nobody waits for it for ever.
local previous = tonumber(redis.call('HGET', KEYS[7], ARGV[1]) or '')
if previous and tonumber(previous) > tonumber(ARGV[2]) then return {0} end
redis.call('HSET', KEYS[7], ARGV[1], ARGV[2])

local lost = meta[6] or '0'
if floor > last then
  -- The caller's stamps were issued by this namespace once: continue above them.
  note_loss(KEYS[1], last, floor, stamp)
  lost = text(stamp)
  last = stamp
  redis.call('HSET', KEYS[1], 'last', lost)
end
if not meta[4] then redis.call('HSET', KEYS[1], 'schema', ARGV[8], 'strategy', ARGV[9]) end
if tonumber(ARGV[5]) > 0 then
  redis.call('ZADD', KEYS[2], text(now_ms + tonumber(ARGV[5])), ARGV[4])
  redis.call('HSET', KEYS[3], ARGV[4], ARGV[6])
end

local n = tonumber(ARGV[10])
local letters, wishes = {}, {}
if n > 0 then
  local names = {}
  for i = 1, n do names[i] = ARGV[9 + i * 2] end
  local lines = redis.call('HMGET', KEYS[5], unpack(names))
  local scores = redis.call('ZMSCORE', KEYS[4], unpack(names))
  local cancels = redis.call('HMGET', KEYS[6], unpack(names))
  local renewed, changed = {}, {}
  local deadline = text(now_ms + tonumber(ARGV[7]))
  for i, id in ipairs(names) do
    local s = lines[i] and read_state(lines[i])
    if s and s.token == ARGV[10 + i * 2] and (s.status == 'R' or s.status == 'C')
        and scores[i] and tonumber(scores[i]) > now_ms then
      letters[i] = 'h'
      renewed[#renewed + 1] = deadline
      renewed[#renewed + 1] = id
      if s.lease ~= ARGV[7] then
        -- The worker trusts the length it sends from now on: a sweep must not cut it to that of the claim.
        s.lease = ARGV[7]
        changed[#changed + 1] = id
        changed[#changed + 1] = write_state(s)
      end
      if cancels[i] then
        wishes[#wishes + 1] = id
        wishes[#wishes + 1] = cancels[i]
      end
    else
      letters[i] = 'x'
    end
  end
  if #renewed > 0 then redis.call('ZADD', KEYS[4], 'XX', unpack(renewed)) end
  if #changed > 0 then redis.call('HSET', KEYS[5], unpack(changed)) end
end
local reply = {1, text(last), lost, meta[2] and 1 or 0, meta[3] or '0', table.concat(letters), text(now)}
for _, wish in ipairs(wishes) do reply[#reply + 1] = wish end
return reply
