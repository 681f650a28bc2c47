-- What became of an attempt. Returns 1, or 0 if the row is owed no more (delivered by another sender, or its job was deleted).
-- KEYS: outbox, lane, webhook row, deliveries of the tenant, dead letters, dead letters of the tenant
-- ARGV: id, lane, state: 'pending' (it comes again), 'delivered', 'dead', or 'gone' (nothing is kept of it), due_ms, the attempt as JSON ('' for
--       none was made), now_s, kept_s, the smallest id that is kept
if not redis.call('ZSCORE', KEYS[2], ARGV[1]) then return 0 end
local state = ARGV[3]
if state == 'pending' then redis.call('ZADD', KEYS[2], ARGV[4], ARGV[1]) else redis.call('ZREM', KEYS[2], ARGV[1]) end
refresh(KEYS[1], ARGV[2])
redis.call('ZREMRANGEBYLEX', KEYS[4], '-', '(' .. ARGV[8])
redis.call('ZREMRANGEBYLEX', KEYS[6], '-', '(' .. ARGV[8])
redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', ARGV[6] - ARGV[7])
if state == 'gone' then
  redis.call('DEL', KEYS[3])
  redis.call('ZREM', KEYS[4], ARGV[1])
  return 1
end
redis.call('HINCRBY', KEYS[3], 'attempts', 1)
redis.call('HSET', KEYS[3], 'state', state)
if ARGV[5] ~= '' then
  local number = redis.call('HINCRBY', KEYS[3], 'tried', 1)
  redis.call('HSET', KEYS[3], 'attempt:' .. number, ARGV[5])
  redis.call('HDEL', KEYS[3], 'attempt:' .. (number - 32)) -- each redelivery adds some
end
if state ~= 'pending' then redis.call('EXPIRE', KEYS[3], ARGV[7]) end
if state == 'dead' then
  redis.call('ZADD', KEYS[5], ARGV[6], ARGV[1])
  redis.call('ZADD', KEYS[6], 0, ARGV[1])
end
return 1
