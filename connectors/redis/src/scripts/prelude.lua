-- What every script begins with. Redis compares strings by the locale of the server, and Lua's
-- numbers are doubles: a version is compared as two halves of 32 bits, which a double holds.

local function newer(a, b)
  local high_a, high_b = tonumber(string.sub(a, 1, 8), 16), tonumber(string.sub(b, 1, 8), 16)
  if high_a ~= high_b then return high_a > high_b end
  return tonumber(string.sub(a, 9), 16) > tonumber(string.sub(b, 9), 16)
end

-- Why the unit at `key` may not be written to: it has another owner, or is not where it was left.
local function refusal(key, owner, attempt, generation, cursor)
  local held = redis.call('HMGET', key, 'owner', 'attempt', 'generation', 'cursor')
  if held[1] ~= owner or held[2] ~= attempt or held[3] ~= generation then
    return {'taken', held[1] or ''}
  end
  if (held[4] or '') ~= cursor then return {'moved', held[4] or ''} end
  return nil
end

-- Version and partition of the row at `key`; both false if there is none that is ours. Where
-- `format` is 'hash', `version` and `partition` name the fields; where it is 'json', they are what
-- stands before either value at the beginning of the text.
local function held_row(key, format, version, partition)
  local held
  if format == 'hash' then
    held = redis.pcall('HMGET', key, version, partition)
  else
    held = redis.pcall('GETRANGE', key, 0, #version + 16 + #partition + 11)
  end
  if type(held) == 'table' and held.err then
    if string.find(held.err, 'WRONGTYPE', 1, true) then return false, false end
    error(held)
  end
  if format == 'json' then
    local text = held
    local after = #version + 16
    held = {false, false}
    if string.sub(text, 1, #version) == version
      and string.sub(text, after + 1, after + #partition) == partition then
      held[1] = string.sub(text, #version + 1, after)
      held[2] = string.match(text, '^%d+', after + #partition + 1) or false
    end
  end
  if not held[1] or not held[2] or #held[1] ~= 16 or string.find(held[1], '%X') then
    return false, false
  end
  return held[1], held[2]
end
