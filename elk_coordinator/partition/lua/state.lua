-- Included by the scripts that read or change the small mutable part of a partition.
--
-- One line of text, fields parted by single spaces, the error text last and unparsed:
--   status token version lease_ms deliveries attempt priority checkpoint processed outcome retry_ms worker error
-- status: P pending, C claimed, R running, F failed.  checkpoint: 20 digits of id + 2^63, or '-'.
-- outcome: what the last claim reported (letters of model.Outcome), '-' while it is held.
-- IDs and counts stay text: a Lua number cannot hold 64 bits.

local STATE = '^(%a) (%d+) (%d+) (%d+) (%d+) (%d+) (%-?%d+) (%S+) (%d+) (%S) (%d+) (%S+) (.*)$'

local function read_state(line)
  local status, token, version, lease, deliveries, attempt, priority, checkpoint, processed, outcome, retry, worker, err =
    string.match(line, STATE)
  if not status then
    return nil
  end
  return {
    status = status, token = token, version = version, lease = lease, deliveries = tonumber(deliveries),
    attempt = tonumber(attempt), priority = priority, checkpoint = checkpoint, processed = processed,
    outcome = outcome, retry = retry, worker = worker, err = err,
  }
end

local function write_state(s)
  return s.status .. ' ' .. s.token .. ' ' .. s.version .. ' ' .. s.lease .. ' ' .. string.format('%d', s.deliveries)
    .. ' ' .. string.format('%d', s.attempt) .. ' ' .. s.priority .. ' ' .. s.checkpoint .. ' ' .. s.processed
    .. ' ' .. s.outcome .. ' ' .. s.retry .. ' ' .. s.worker .. ' ' .. s.err
end
