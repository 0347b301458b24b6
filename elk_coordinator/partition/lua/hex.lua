-- Included by the scripts that need as a number what is kept in 14 hexadecimal digits: ids as members and fields, and
-- the stamp of a partition's creation. In two halves: a server of 32 bits reads no more than eight digits at once.

-- Returns nil for anything else than 14 digits: a foreign member must not end the script.
local function hex_number(digits)
  local high, low = string.match(digits, '^(%x%x%x%x%x%x%x)(%x%x%x%x%x%x%x)$')
  return high and tonumber(high, 16) * 268435456 + tonumber(low, 16)
end

local function hex_text(number)
  return string.format('%07x%07x', math.floor(number / 268435456), number % 268435456)
end
