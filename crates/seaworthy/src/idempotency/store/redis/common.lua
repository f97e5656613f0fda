-- Before every script. A record is a hash at KEYS[1]; it is absent if there is none, so what expired is absent.
local key = KEYS[1]

-- Milliseconds of the server's clock since the Unix epoch.
local function now()
  local time = redis.call('TIME')
  return string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
end

-- The record as it stands: the twelve fields, and for how many milliseconds it is still remembered. At a glance, a body is empty.
local function found(glance)
  local fields = redis.call('HMGET', key, 'place', 'client', 'key', 'fingerprint', 'token', 'phase', 'changed',
    'head', glance and 'head' or 'body', 'chunks', 'retention', 'lease')
  if glance and fields[9] then
    fields[9] = ''
  end
  table.insert(fields, redis.call('PTTL', key))
  return fields
end

-- Writes a reservation under the next token. Says, too, how many chunks the one before may have left.
local function begin(place, client, name, fingerprint, owner, retention, lease)
  -- First, as it is the only one of these that can fail: then nothing was written.
  redis.call('HINCRBY', key, 'token', 1)
  local pieces = redis.call('HGET', key, 'pieces') or '0'
  redis.call('HDEL', key, 'head', 'body', 'chunks', 'pieces')
  redis.call('HSET', key, 'place', place, 'client', client, 'key', name, 'fingerprint', fingerprint, 'owner', owner,
    'phase', 'running', 'changed', now(), 'retention', retention, 'lease', lease)
  redis.call('PEXPIRE', key, retention)
  return {'new', redis.call('HGET', key, 'token'), pieces}
end
