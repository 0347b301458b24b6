-- Included by the scripts that carry an operator's command on: the guard before a step and the mark after it.
--
-- A command's state is one line, the error text last and unparsed:
--   state updated_us done cursor skipped listed note error
-- state: queued, running, done, failed.  listed: numbers parted by commas, '-' = none.  note: one word, '-' = none.

-- Returns what to answer instead of a step by a leader of before, or one computed from an older mark; else nil.
local function step_refused(leader_key, state_key, term, id, expected)
  local holder = redis.call('HGET', leader_key, 'token')
  if holder ~= term then return {-2, holder or '0'} end
  if redis.call('HGET', state_key, id) ~= expected then return {-4} end
  return nil
end

local function write_step(state_key, queue_key, ended_key, id, state, now, rest)
  redis.call('HSET', state_key, id, state .. ' ' .. text(now) .. ' ' .. rest)
  if state == 'done' or state == 'failed' then
    -- Ended ones stay in the order of their submission, which no clock that is set back can change.
    local submitted = redis.call('ZSCORE', queue_key, id) or text(now)
    redis.call('ZREM', queue_key, id)
    redis.call('ZADD', ended_key, submitted, id)
  end
end
