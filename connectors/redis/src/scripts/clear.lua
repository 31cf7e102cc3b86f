-- KEYS: keys that may be rows. ARGV: format, version and partition (see held_row).
local gone = 0
for i = 1, #KEYS do
  if held_row(KEYS[i], ARGV[1], ARGV[2], ARGV[3]) then
    redis.call('DEL', KEYS[i])
    gone = gone + 1
  end
end
return {'ok', tostring(gone)}
