-- KEYS: the record, the chunk. ARGV: the token that left it.
local fields = redis.call('HMGET', key, 'token', 'phase')
if fields[1] ~= ARGV[1] or fields[2] == 'free' then
  return false
end
return redis.call('GET', KEYS[2])
