-- KEYS: where to look for releases. ARGV: a record's digest, how many are kept.
redis.call('ZADD', key, now(), ARGV[1])
redis.call('ZREMRANGEBYRANK', key, 0, -1 - ARGV[2])
return 1
