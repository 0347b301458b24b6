-- Included by the scripts that need a partition's id as a number: members and fields hold 14 hexadecimal digits.
-- In two halves: a server of 32 bits reads no more than eight digits at once.

local function id_number(id)
  return tonumber(string.sub(id, 1, -8), 16) * 268435456 + tonumber(string.sub(id, -7), 16)
end

local function id_text(number)
  return string.format('%07x%07x', math.floor(number / 268435456), number % 268435456)
end
