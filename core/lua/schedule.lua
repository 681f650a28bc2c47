#!lua flags=allow-oom
-- Says when something is due, in an index of what there is to do; also where nothing new is taken, as what is done may make room.
-- KEYS: index   ARGV: 'XX' (if it stands there) or 'NX' (if it does not), when, member
return redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2], ARGV[3])
