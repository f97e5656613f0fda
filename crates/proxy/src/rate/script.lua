local interval, tolerance = tonumber(ARGV[1]), tonumber(ARGV[2])
local tat = tonumber(redis.call('GET', KEYS[1]) or '0') or 0
local spent = now + tolerance
if tat > spent + interval + 1000000 then tat = spent end
local wait = tat - tolerance - now
if wait > 0 then return wait end
tat = math.max(tat, now) + interval
redis.call('SET', KEYS[1], string.format('%.0f', tat), 'PX', string.format('%.0f', math.ceil((tat - now) / 1000)))
return 0
