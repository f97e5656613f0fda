-- ARGV: place, client, key, fingerprint, owner, retention, lease.
local fields = redis.call('HMGET', key, 'phase', 'owner', 'token')
local phase, owner, token = fields[1], fields[2], fields[3]
if phase == 'running' and owner == ARGV[5] then
  return {'new', token}
end
if phase == 'free' or redis.call('EXISTS', key) == 0 then
  return begin(unpack(ARGV))
end
return {'found', found()}
