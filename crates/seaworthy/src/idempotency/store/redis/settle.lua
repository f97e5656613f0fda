-- KEYS: the record, its chunks. ARGV: token, owner, phase, retention, and of a result: head, body, how many chunks.
local fields = redis.call('HMGET', key, 'token', 'owner', 'phase', 'head', 'body', 'chunks')
if fields[1] ~= ARGV[1] or fields[2] ~= ARGV[2] then
  return 0
end
local phase = fields[3]
if phase == ARGV[3] then
  -- As before? Only of results there are several.
  return (phase ~= 'done' or (fields[4] == ARGV[5] and fields[5] == ARGV[6] and fields[6] == ARGV[7])) and 1 or 0
end
if phase ~= 'running' and phase ~= 'unknown' then
  return 0
end
for n = 2, #KEYS do
  if redis.call('EXISTS', KEYS[n]) == 0 then
    return 1 - n
  end
end
-- A result lasts as long as its record, all of it.
for n = 2, #KEYS do
  redis.call('PEXPIRE', KEYS[n], ARGV[4])
end
if ARGV[3] == 'done' then
  redis.call('HSET', key, 'head', ARGV[5], 'body', ARGV[6], 'chunks', ARGV[7])
end
redis.call('HSET', key, 'phase', ARGV[3], 'changed', now(), 'retention', ARGV[4])
redis.call('PEXPIRE', key, ARGV[4])
return 1
