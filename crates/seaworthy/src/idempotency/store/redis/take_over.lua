-- ARGV: place, client, key, fingerprint, owner, retention, lease, the token that it is taken from.
local fields = redis.call('HMGET', key, 'phase', 'owner', 'token')
local phase, owner, token = fields[1], fields[2], fields[3]
if phase == 'running' and owner == ARGV[5] then
  return {'new', token}
end
if redis.call('EXISTS', key) == 0 or (token == ARGV[8] and (phase == 'running' or phase == 'unknown')) then
  return begin(ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7])
end
return {'found', found()}
