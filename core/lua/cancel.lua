#!lua flags=allow-oom
-- Asks for the cancellation of a job that runs. Returns its status, or nothing if there is no such job.
-- KEYS: job
local status = redis.call('HGET', KEYS[1], 'status')
if status == 'running' then redis.call('HSET', KEYS[1], 'cancel', '1') end
return status
