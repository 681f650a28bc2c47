-- Stores the progress of a running job, if it is still this execution's. Returns 0 if it is not, 2 if its owner asked to cancel, else 1.
-- KEYS: job   ARGV: lease member, step, steps, object key of the preview ('' for none)
if redis.call('HGET', KEYS[1], 'execution') ~= ARGV[1] or redis.call('HGET', KEYS[1], 'status') ~= 'running' then return 0 end
redis.call('HSET', KEYS[1], 'step', ARGV[2], 'steps', ARGV[3])
if ARGV[4] ~= '' then redis.call('HSET', KEYS[1], 'preview', ARGV[4]) end
return redis.call('HEXISTS', KEYS[1], 'cancel') == 1 and 2 or 1
