#!lua flags=allow-oom
-- Frees an idempotency key whose request made no job. One that is bound goes with its job (delete.lua).
-- KEYS: reservation, reservations of the tenant that have no job   ARGV: token
local found = redis.call('HMGET', KEYS[1], 'token', 'job')
if found[1] == ARGV[1] and found[2] == '' then
  redis.call('DEL', KEYS[1])
  redis.call('ZREM', KEYS[2], KEYS[1])
end
