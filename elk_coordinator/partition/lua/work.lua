-- include: stamp.lua hex.lua state.lua
-- One turn of a worker: report what ended, mark what started, claim what comes next. The only script on the hot path.
--
-- KEYS   1 meta  2 streams  3 pending  4 suspects  5 delayed  6 leases  7 claimed  8 failed  9 specs  10 state
--        11 done  12 cancels  13 corrupt
-- ARGV   1 stream  2 sequence number  3 floor  4 worker  5 lease_ms  6 free slots  7 prefetch  8 suspects allowed (0/1)
--        9 max_attempts  10 max_deliveries  11 channel  12 number of reports
--        then per report "id token outcome processed delay_ms error", outcome a letter; then the number of starts;
--        then per start "id token"; then, with affinity only: how far to look at the head of the queue (at most 500),
--        a character per bucket of areas ('1' this worker's), partitions per area
--        One text each, and one per grant: on the caller's side every single value costs microseconds.
-- Reply  {1, now_us, lost_data, left, expired, codes, due, "id spec" newline "state", ...}; a spec holds no newline
--        due: ms until the next retry may be claimed, told to who got less than it wanted, else -1
--        codes: a letter per report: C completed, P pending, F failed, '-' the claim is gone (nothing changed)
--        {0} stale: a later turn of this stream ran already   {-1} floor refused
-- Replay an equal sequence number gets its first answer again (codes stored; grants rebuilt while still held);
--        a report whose token is the record's last one gets the same letter again.
-- Cost   a constant number of commands, at most 500 reports and 500 grants.

local meta = redis.call('HMGET', KEYS[1], 'last', 'paused', 'low_water', 'hungry')
local now = now_us()
local now_ms = math.floor(now / 1000)
local last = tonumber(meta[1] or '0') or 0
local floor = tonumber(ARGV[3])
local lost_data = 0
if floor > last then lost_data = 1 end
local stamp = next_stamp(last, now, floor)
if not stamp then return {-1} end
note_loss(KEYS[1], last, floor, stamp)

local worker, lease_ms = ARGV[4], tonumber(ARGV[5])
local at = 13
local reports = tonumber(ARGV[12])
local starts_at = at + reports
local starts = tonumber(ARGV[starts_at])

-- Has this turn, or a later one, run before? "sequence codes first_token id,id,id". Unreadable is as good as gone: a
-- worker must not wait for it for ever, and reports and grants carry tokens of their own.
local previous = redis.call('HGET', KEYS[2], ARGV[1])
if previous and string.match(previous, '^%d+ %S* %d+ %S*$') then
  local seq, codes, first, ids = string.match(previous, '^(%d+) (%S*) (%d+) (%S*)$')
  if tonumber(seq) > tonumber(ARGV[2]) then return {0} end
  if tonumber(seq) == tonumber(ARGV[2]) then
    local reply = {1, text(now), lost_data, 0, 0, codes, -1}
    local names = {}
    for id in string.gmatch(ids, '%x+') do names[#names + 1] = id end
    if #names > 0 then
      local specs = redis.call('HMGET', KEYS[9], unpack(names))
      local states = redis.call('HMGET', KEYS[10], unpack(names))
      for i, id in ipairs(names) do
        local s = states[i] and read_state(states[i])
        if s and specs[i] and s.token == text(tonumber(first) + i - 1) and (s.status == 'R' or s.status == 'C') then
          reply[#reply + 1] = id .. ' ' .. specs[i] .. '\n' .. states[i]
        end
      end
    end
    return reply
  end
end

-- The records of everything reported or started, in one read.
local ids, states, specs = {}, {}, {}
local tokens, outcomes, amounts, delays, errors = {}, {}, {}, {}, {}
for i = 1, reports do
  ids[i], tokens[i], outcomes[i], amounts[i], delays[i], errors[i] =
    string.match(ARGV[at + i - 1], '^(%S+) (%d+) (%a) (%d+) (%d+) (.*)$')
end
for i = reports + 1, reports + starts do ids[i], tokens[i] = string.match(ARGV[starts_at + i - reports], '^(%S+) (%d+)$') end
if #ids > 0 then states = redis.call('HMGET', KEYS[10], unpack(ids)) end
if reports > 0 then
  local names = {}
  for i = 1, reports do names[i] = ids[i] end
  specs = redis.call('HMGET', KEYS[9], unpack(names))
end

-- What operators want of those that did not complete: a cancel outranks another attempt.
local wishes = {}
for i = 1, reports do
  if outcomes[i] ~= 'C' then
    local names = {}
    for k = 1, reports do names[k] = ids[k] end
    wishes = redis.call('HMGET', KEYS[12], unpack(names))
    break
  end
end

local version = text(stamp)
local codes = {}
local set_state, del_state, set_done, unleased, uncancelled = {}, {}, {}, {}, {}
local to_pending, to_suspects, to_delayed, to_failed = {}, {}, {}, {}
local seen_done
-- One claim ends once: a second report, or a start, of the same id in this call finds it handled. The same report twice
-- gets the same letter twice.
local handled = {}

for i = 1, reports do
  local id, token, outcome = ids[i], tokens[i], outcomes[i]
  local s = states[i] and read_state(states[i])
  local code = '-'
  -- A completion needs the immutable part; without a readable one the claim is left to its deadline, then set aside.
  local head, options
  if outcome == 'C' then head, options = string.match(specs[i] or '', '^(%S+ %S+ %S+) ?(.*)$') end
  if not s and specs[i] == false then
    -- Gone from the active layer: a repeated report of the completion that moved it gets its answer again.
    if outcome == 'C' then
      if not seen_done then
        local names = {}
        for k = 1, reports do names[k] = ids[k] end
        seen_done = redis.call('HMGET', KEYS[11], unpack(names))
      end
      local done = seen_done[i]
      if done and string.match(done, '^%S+ %S+ %S+ (%d+) ') == token then code = 'C' end
    end
  elseif s and (head or outcome ~= 'C') and not handled[id] and s.token == token
      and (s.status == 'R' or s.status == 'C') then
    s.outcome = outcome
    if outcome == 'C' then
      code = 'C'
      set_done[#set_done + 1] = id
      set_done[#set_done + 1] = head .. ' ' .. token .. ' ' .. version .. ' ' .. string.format('%d', s.deliveries)
        .. ' ' .. string.format('%d', s.attempt) .. ' ' .. s.priority .. ' ' .. amounts[i] .. ' ' .. s.worker
        .. ' ' .. options
      del_state[#del_state + 1] = id
    else
      local delay = tonumber(delays[i])
      s.status, s.lease, s.version, s.retry = 'P', '0', version, '0'
      if errors[i] ~= '' then s.err = errors[i] end
      if outcome == 'E' or outcome == 'F' then s.attempt = s.attempt + 1 end
      if outcome == 'L' then
        s.deliveries = s.deliveries + 1
        delay = 0
        if s.deliveries >= tonumber(ARGV[10]) then s.status = 'F' end
      end
      if outcome == 'F' or outcome == 'X' or (outcome == 'E' and s.attempt >= tonumber(ARGV[9])) then
        s.status = 'F'
      end
      local who = wishes[i] and string.match(wishes[i], '^C (.*)$')
      if who and s.status == 'P' then s.status, s.err = 'F', 'cancelled by ' .. who end
      code = s.status
      if s.status == 'F' then
        to_failed[#to_failed + 1] = 0
        to_failed[#to_failed + 1] = id
      elseif delay > 0 then
        s.retry = text(now_ms + delay)
        to_delayed[#to_delayed + 1] = s.retry
        to_delayed[#to_delayed + 1] = id
      else
        local target = to_pending
        if s.deliveries >= 2 then target = to_suspects end
        target[#target + 1] = 0 - tonumber(s.priority)
        target[#target + 1] = id
      end
      set_state[#set_state + 1] = id
      set_state[#set_state + 1] = write_state(s)
    end
    handled[id] = {token .. outcome, code}
    unleased[#unleased + 1] = id
  elseif s and not handled[id] and s.token == token and s.outcome == outcome then
    code = s.status
  elseif handled[id] and handled[id][1] == token .. outcome then
    code = handled[id][2]
  end
  codes[i] = code
end

-- Given back, and claimable at once: others may be idle.
local returned = #to_pending + #to_suspects > 0

local started = {}
for i = 1, starts do
  local id = ids[reports + i]
  local s = states[reports + i] and read_state(states[reports + i])
  if s and not handled[id] and s.token == tokens[reports + i] and s.status == 'C' then
    s.status, s.version = 'R', version
    set_state[#set_state + 1] = id
    set_state[#set_state + 1] = write_state(s)
    started[#started + 1] = id
  end
end

-- What is due again becomes claimable; at most 100 a turn.
local want = tonumber(ARGV[6]) + tonumber(ARGV[7])
local due = {}
if want > 0 then
  due = redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', now_ms, 'LIMIT', 0, 100)
  if #due > 0 then
    local lines = redis.call('HMGET', KEYS[10], unpack(due))
    for i, id in ipairs(due) do
      local s = lines[i] and read_state(lines[i])
      local target = to_pending
      if s and s.deliveries >= 2 then target = to_suspects end
      target[#target + 1] = s and 0 - tonumber(s.priority) or 0
      target[#target + 1] = id
    end
  end
end

-- Into the new index first, out of the old one last: where a write is refused in between (a key of a wrong type, a right
-- taken away), the partition is in both, and the next turn or the sweep puts that right. In neither it would be lost.
if #to_pending > 0 then redis.call('ZADD', KEYS[3], unpack(to_pending)) end
if #to_suspects > 0 then redis.call('ZADD', KEYS[4], unpack(to_suspects)) end
if #to_delayed > 0 then redis.call('ZADD', KEYS[5], unpack(to_delayed)) end
if #to_failed > 0 then redis.call('ZADD', KEYS[8], unpack(to_failed)) end
if #due > 0 then redis.call('ZREM', KEYS[5], unpack(due)) end
if #set_done > 0 then
  redis.call('HSET', KEYS[11], unpack(set_done))
  redis.call('HDEL', KEYS[9], unpack(del_state))
  redis.call('HDEL', KEYS[10], unpack(del_state))
end
if #set_state > 0 then redis.call('HSET', KEYS[10], unpack(set_state)) end
if #unleased > 0 then
  redis.call('ZREM', KEYS[6], unpack(unleased))
  redis.call('SREM', KEYS[7], unpack(unleased))
  redis.call('HDEL', KEYS[12], unpack(unleased))
end
if #started > 0 then redis.call('SREM', KEYS[7], unpack(started)) end

-- Affinity: of what was looked at, take the best priority first, within it one's own first, then by id.
local function prefer(looked, count, owned, area)
  local out, i = {}, 1
  while looked[i] and #out < 2 * count do
    -- As numbers: an equal score may be spelt "0" or "-0".
    local score, others = tonumber(looked[i + 1]), {}
    while looked[i] and tonumber(looked[i + 1]) == score do
      local bucket = math.floor((hex_number(looked[i]) or 0) / area) % #owned
      local target = others
      if string.byte(owned, bucket + 1) == 49 then target = out end
      if #target < 2 * count then
        target[#target + 1] = looked[i]
        target[#target + 1] = score
      end
      i = i + 2
    end
    for j = 1, math.min(#others, 2 * count - #out) do out[#out + 1] = others[j] end
  end
  return out
end

-- Claim. Order: priority, then id. A suspect goes alone, so that a poison partition drags no neighbour with it.
local granted, first = {}, stamp + 1
local left = 0
local reply = {1, text(now), lost_data, 0, 0, table.concat(codes), -1}
if want > 0 and not meta[2] then
  local look = ARGV[starts_at + 1 + starts]
  local picked = redis.call('ZRANGE', KEYS[3], 0, math.max(want, tonumber(look or '0')) - 1, 'WITHSCORES')
  if look then
    picked = prefer(picked, want, ARGV[starts_at + 2 + starts], tonumber(ARGV[starts_at + 3 + starts]))
  end
  local source = KEYS[3]
  local slots = tonumber(ARGV[6])
  if ARGV[8] == '1' and slots > 0 then
    local head = redis.call('ZRANGE', KEYS[4], 0, 0, 'WITHSCORES')
    if #head > 0 and (#picked == 0 or tonumber(head[2]) < tonumber(picked[2])
        or (tonumber(head[2]) == tonumber(picked[2]) and head[1] < picked[1])) then
      picked, source = head, KEYS[4]
    end
  end
  if #picked > 0 then
    local names = {}
    for i = 1, #picked, 2 do names[#names + 1] = picked[i] end
    local lines = redis.call('HMGET', KEYS[10], unpack(names))
    local bodies = redis.call('HMGET', KEYS[9], unpack(names))
    local new_state, new_lease, new_claimed, broken = {}, {}, {}, {}
    local deadline = text(now_ms + lease_ms)
    for i, id in ipairs(names) do
      local s
      if lines[i] then
        s = read_state(lines[i])
      else
        s = {deliveries = 0, attempt = 0, checkpoint = '-', processed = '0', err = ''}
      end
      if s and bodies[i] then
        local token = text(first + #granted)
        s.token, s.version, s.lease, s.worker, s.outcome, s.retry = token, token, text(lease_ms), worker, '-', '0'
        s.priority = text(0 - tonumber(picked[i * 2]))
        if #granted < slots then
          s.status = 'R'
        else
          s.status = 'C'
          new_claimed[#new_claimed + 1] = id
        end
        granted[#granted + 1] = id
        local line = write_state(s)
        new_state[#new_state + 1] = id
        new_state[#new_state + 1] = line
        new_lease[#new_lease + 1] = deadline
        new_lease[#new_lease + 1] = id
        reply[#reply + 1] = id .. ' ' .. bodies[i] .. '\n' .. line
      else
        -- Unreadable: set aside, named by doctor and verify, so that the rest goes on.
        broken[#broken + 1] = id
      end
    end
    if #new_state > 0 then
      redis.call('ZADD', KEYS[6], unpack(new_lease))
      redis.call('HSET', KEYS[10], unpack(new_state))
    end
    if #new_claimed > 0 then redis.call('SADD', KEYS[7], unpack(new_claimed)) end
    if #broken > 0 then redis.call('SADD', KEYS[13], unpack(broken)) end
    redis.call('ZREM', source, unpack(names))
  end
end
local soonest
if want > 0 then
  left = redis.call('ZCARD', KEYS[3])
  reply[4] = left
  soonest = redis.call('ZRANGE', KEYS[6], 0, 0, 'WITHSCORES')
  if #soonest > 0 and tonumber(soonest[2]) <= now_ms then reply[5] = 1 end
  if #granted < want and not meta[2] then
    -- Nobody calls when a retry comes due: who has nothing to do comes back for it.
    local due = redis.call('ZRANGE', KEYS[5], 0, 0, 'WITHSCORES')
    if #due > 0 then reply[7] = math.max(0, tonumber(due[2]) - now_ms) end
  end
end

-- Durable marks, then the hint. Publishing may be forbidden to this user: that must not undo the turn.
local marks = {'last', text(stamp + #granted)}
local hungry = want > 0 and not meta[2] and (#granted < want or left < (tonumber(meta[3] or '0') or 0))
if hungry and not meta[4] then
  marks[#marks + 1] = 'hungry'
  marks[#marks + 1] = version
end
redis.call('HSET', KEYS[1], unpack(marks))
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2] .. ' ' .. table.concat(codes) .. ' ' .. text(first) .. ' '
  .. table.concat(granted, ','))
if hungry and not meta[4] then redis.pcall('PUBLISH', ARGV[11], 'hungry') end
if returned then redis.pcall('PUBLISH', ARGV[11], 'work') end
return reply
