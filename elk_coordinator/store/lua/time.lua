-- include: stamp.lua
-- The server's clock.
--
-- KEYS   1 any key of the namespace (so that a cluster knows whom to ask)
-- ARGV   none
-- Reply  {now_us}

return {text(now_us())}
