-- KEYS: the record, the chunk. ARGV: token, owner, bytes, retention, its number and one more.
local fields = redis.call('HMGET', key, 'token', 'owner', 'phase')
local open = fields[3] == 'running' or fields[3] == 'unknown'
if fields[1] ~= ARGV[1] or fields[2] ~= ARGV[2] or not open then
  return 0
end
redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[4])
redis.call('HSET', key, 'changed', now(), 'retention', ARGV[4])
if tonumber(redis.call('HGET', key, 'pieces') or 0) < tonumber(ARGV[5]) then
  redis.call('HSET', key, 'pieces', ARGV[5])
end
redis.call('PEXPIRE', key, ARGV[4])
return 1
