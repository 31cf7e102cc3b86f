-- KEYS: the unit, then the rows.
-- ARGV: owner, attempt, generation, cursor held, cursor to set (or ''), format, version and
-- partition (see held_row), the partition's number; then for each row its version, how many
-- arguments it has (-1 for a delete) and these arguments.
local why = refusal(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
if why then return why end
local cursor, format, version_name, partition_name, partition =
  ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]

local at = 10
for i = 2, #KEYS do
  local key, version, count = KEYS[i], ARGV[at], tonumber(ARGV[at + 1])
  local first = at + 2
  at = first + math.max(count, 0)
  local held = held_row(key, format, version_name, partition_name)
  if held then
    if newer(held, version) then
      count = nil
    else
      -- The whole row goes, so that a column that is null or dropped now does not stay behind.
      redis.call('DEL', key)
    end
  elseif count >= 0 and redis.call('EXISTS', key) == 1 then
    return {'foreign', key}
  end
  if count and count >= 0 then
    if format == 'hash' then
      redis.call('HSET', key, version_name, version, partition_name, partition,
        unpack(ARGV, first, at - 1))
    else
      redis.call('SET', key, ARGV[first])
    end
  end
end

if cursor ~= '' then redis.call('HSET', KEYS[1], 'cursor', cursor) end
return {'ok'}
