-- KEYS: the unit. ARGV: format of the unit key, owner, attempt, generation.
-- Makes `owner` the only one whose scripts are obeyed, and answers with the cursor.
local held = redis.call('HMGET', KEYS[1], 'format', 'owner', 'attempt', 'generation', 'cursor')
if held[1] and held[1] ~= ARGV[1] then return {'format', held[1]} end
if held[4] and tonumber(held[4]) > tonumber(ARGV[4]) then return {'generation', held[4]} end
-- An attempt that arrives after a later one of the same owner changes nothing.
if held[2] == ARGV[2] and tonumber(held[3]) >= tonumber(ARGV[3]) then return {'taken', held[2]} end
redis.call('HSET', KEYS[1],
  'format', ARGV[1], 'owner', ARGV[2], 'attempt', ARGV[3], 'generation', ARGV[4])
return {'ok', held[5] or ''}
