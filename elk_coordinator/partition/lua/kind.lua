-- What is known of a namespace's strategy.
--
-- KEYS   1 meta
-- ARGV   none
-- Reply  {strategy or '', version of the plan or '0'}
-- Cost   one command; reads only.

local meta = redis.call('HMGET', KEYS[1], 'strategy', 'planned_version')
return {meta[1] or '', meta[2] or '0'}
