-- Included by every script that grants or changes something. Locals only: a leaked global breaks later scripts.
--
-- A stamp is the one growing number of a namespace: max(last + 1, microseconds of the server's clock, floor + 1).
-- It serves as fencing token, as term and as version, so none of them ever repeats, not even after data loss:
-- the clock goes on, and callers send the highest stamp they remember as floor.
-- Exact in a double until the year 2255; becomes text only by '%.0f' (tostring loses digits).

local DAY_US = 86400000000

local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function text(number)
  return string.format('%.0f', number)
end

-- Returns the first of the stamps to hand out, or nil when floor is further ahead than any clock explains
-- (one corrupt caller must not push the namespace towards 2^53, where stamps stop rising).
local function next_stamp(last, now, floor)
  if floor > math.max(last, now) + DAY_US then
    return nil
  end
  return math.max(last + 1, now, floor + 1)
end

-- A floor above the last stamp proves that the store forgot some: leave a mark that every worker's next beat reads.
local function note_loss(meta, last, floor, stamp)
  if floor > last then redis.call('HSET', meta, 'lost', text(stamp)) end
end
