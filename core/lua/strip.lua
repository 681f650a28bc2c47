#!lua flags=allow-oom
-- Marks the outputs of a job that has ended as deleted, before they are. Returns 0 if there is no such record.
-- KEYS: job
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'outputs_deleted', 1)
return 1
