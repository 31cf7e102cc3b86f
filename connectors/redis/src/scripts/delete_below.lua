-- KEYS: some units, then keys that may be rows of theirs.
-- ARGV: owner, attempt, generation, format, version and partition (see held_row), how many units;
-- then for each unit the cursor held, the partition's number and the bound.
local bounds = {}
local units = tonumber(ARGV[7])
for i = 1, units do
  local at = 5 + 3 * i
  local why = refusal(KEYS[i], ARGV[1], ARGV[2], ARGV[3], ARGV[at])
  if why then return why end
  bounds[ARGV[at + 1]] = ARGV[at + 2]
end

local gone = 0
for i = units + 1, #KEYS do
  local version, partition = held_row(KEYS[i], ARGV[4], ARGV[5], ARGV[6])
  local bound = version and bounds[partition]
  if bound and newer(bound, version) then
    redis.call('DEL', KEYS[i])
    gone = gone + 1
  end
end
return {'ok', tostring(gone)}
