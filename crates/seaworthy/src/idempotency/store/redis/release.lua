-- KEYS: the record, its releases. ARGV: token, place, client, key, reason, for how long releases are kept, how many.
-- Gives how many chunks it may have left, or -1 if it no longer stands so.
local fields = redis.call('HMGET', key, 'token', 'phase', 'retention', 'pieces')
if fields[1] ~= ARGV[1] then
  return -1
end
local at = now()
redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[7], '*', 'place', ARGV[2], 'client', ARGV[3], 'key', ARGV[4],
  'token', fields[1], 'phase', fields[2] or '', 'reason', ARGV[5], 'at', at)
redis.call('PEXPIRE', KEYS[2], ARGV[6])
-- Who held it until now shall not settle it any more.
redis.call('HDEL', key, 'owner', 'head', 'body', 'chunks', 'pieces')
redis.call('HSET', key, 'phase', 'free', 'changed', at)
redis.call('PEXPIRE', key, fields[3] or ARGV[6])
return tonumber(fields[4] or 0)
