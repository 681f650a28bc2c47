#!lua flags=allow-oom
-- Stores the progress of a running job, if it is still this execution's, and wakes who listens where there is any. Returns 0 if it is not, 2 if
-- its owner asked to cancel, else 1.
-- KEYS: job, events   ARGV: lease member, step, steps, object key of the preview ('' for none), which preview it is
if redis.call('HGET', KEYS[1], 'execution') ~= ARGV[1] or redis.call('HGET', KEYS[1], 'status') ~= 'running' then return 0 end
local was = redis.call('HMGET', KEYS[1], 'step', 'steps', 'preview_number')
redis.call('HSET', KEYS[1], 'step', ARGV[2], 'steps', ARGV[3])
if ARGV[4] ~= '' then redis.call('HSET', KEYS[1], 'preview', ARGV[4], 'preview_number', ARGV[5]) end
if was[1] ~= ARGV[2] or was[2] ~= ARGV[3] or (ARGV[4] ~= '' and was[3] ~= ARGV[5]) then redis.call('PUBLISH', KEYS[2], 'progress') end
return redis.call('HEXISTS', KEYS[1], 'cancel') == 1 and 2 or 1
