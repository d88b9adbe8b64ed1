"""Scripts that the server runs, each as one atomic step.

Each has one key, the root of a session (``daskref:<session id>:``), and below it:

=========================  ==========================================================
``<name>``                 an object: a string of its bytes, or a hash (``base``,
                           ``chunks``, ``chunk``, ``size``) that says where they are
``<base>.<number>``        a chunk of an object's bytes
``index``                  hash, name -> ``size created chunks base``; an entry is
                           there before the object is, and goes with it
``shares``                 hash, base -> how many objects have it, where there are more
``leases``                 sorted set of names by when their lease ends
``members``                sorted set of participants by when they count as dead
``processes``              hash, participant -> where it runs
``session``                ``clear`` or ``keep``; without it the session has ended
``keeper``                 there while a participant has just renewed the objects
=========================  ==========================================================

Times are the server's, in milliseconds since 1970. If the server is full, a script may
only run commands that need memory after one that needs none; so each script that may
meet a full server begins with such a command.
"""

from __future__ import annotations

#: Keys of a session that have its time to live.
META = ("index", "shares", "leases", "members", "processes")

_PRELUDE = f"""
local root = KEYS[1]
local meta = {{{", ".join(map(repr, META))}}}
"""
_PRELUDE += """
local function now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
local function expire(name, ttl)
  if ttl > 0 then redis.call('PEXPIRE', root .. name, ttl) end
end
local function manifest(name, base, chunks, chunk, size, ttl)
  redis.call('HSET', root .. name, 'base', base, 'chunks', chunks, 'chunk', chunk,
    'size', size)
  expire(name, ttl)
end
"""

#: writer, lease, ttl (0: for ever), time between renewals, whether it must exist,
#: where the writer runs -> [time, whether to renew the objects]; nil: it has ended.
BEAT = (
    _PRELUDE
    + """
local ttl, t = tonumber(ARGV[3]), now()
if ARGV[5] == '1' and redis.call('EXISTS', root .. 'session') == 0 then
  return false
end
redis.call('ZREMRANGEBYSCORE', root .. 'members', '-inf', t)
redis.call('ZADD', root .. 'members', t + ARGV[2], ARGV[1])
redis.call('HSET', root .. 'processes', ARGV[1], ARGV[6])
if ttl == 0 then
  redis.call('SET', root .. 'session', 'keep')
  redis.call('PEXPIRE', root .. 'members', 2 * ARGV[2])
  redis.call('PEXPIRE', root .. 'processes', 2 * ARGV[2])
  return {t, 0}
end
redis.call('SET', root .. 'session', 'clear', 'PX', ttl)
for _, name in ipairs(meta) do expire(name, ttl) end
local renew = redis.call('SET', root .. 'keeper', ARGV[1], 'NX', 'PX', ARGV[4])
return {t, renew and 1 or 0}
"""
)

#: whether the last one clears, ttl of what is to be cleared, writers that leave
#: -> [1]: the session has ended, and what is in ``index.gone`` is to be deleted;
#: [0, writer, process, …]: those that are left.
LEAVE = (
    _PRELUDE
    + """
for i = 3, #ARGV do
  redis.call('ZREM', root .. 'members', ARGV[i])
  redis.call('HDEL', root .. 'processes', ARGV[i])
end
redis.call('ZREMRANGEBYSCORE', root .. 'members', '-inf', now())
local left = {0}
for _, writer in ipairs(redis.call('ZRANGE', root .. 'members', 0, -1)) do
  left[#left + 1] = writer
  left[#left + 1] = redis.call('HGET', root .. 'processes', writer) or ''
end
if ARGV[1] == '0' or #left > 1 then return left end
if redis.call('EXISTS', root .. 'index') == 1 then
  redis.call('RENAME', root .. 'index', root .. 'index.gone')
  redis.call('PEXPIRE', root .. 'index.gone', ARGV[2])
  left = {1}
end
for _, name in ipairs(meta) do redis.call('UNLINK', root .. name) end
redis.call('UNLINK', root .. 'session', root .. 'keeper')
return left
"""
)

#: condition, name, … -> [name, size, …] of the objects that were deleted. The condition
#: is ``any``, ``due`` (its lease has ended) or ``unleased`` (it has none).
DROP = (
    _PRELUDE
    + """
local t, dropped = now(), {}
for i = 2, #ARGV do
  local name = ARGV[i]
  local key = root .. name
  local ends = redis.call('ZSCORE', root .. 'leases', name)
  if ARGV[1] == 'any' or (ARGV[1] == 'due' and ends and tonumber(ends) <= t)
      or (ARGV[1] == 'unleased' and not ends) then
    local kind = redis.call('TYPE', key).ok
    local entry = redis.call('HGET', root .. 'index', name)
    local size, chunks, base = 0, 0, ''
    if entry then
      size, chunks, base = entry:match('^(%d+) %d+ (%d+) ?(.*)$')
    end
    if kind == 'hash' then
      local found = redis.call('HMGET', key, 'base', 'chunks', 'size')
      base, chunks, size = found[1], found[2], found[3]
    end
    if kind ~= 'none' then
      redis.call('UNLINK', key)
      dropped[#dropped + 1] = name
      dropped[#dropped + 1] = tonumber(size)
    end
    redis.call('HDEL', root .. 'index', name)
    redis.call('ZREM', root .. 'leases', name)
    if base and base ~= '' and (entry or kind == 'hash') then
      local shared = redis.call('HEXISTS', root .. 'shares', base) == 1
      if not shared or redis.call('HINCRBY', root .. 'shares', base, -1) <= 0 then
        if shared then redis.call('HDEL', root .. 'shares', base) end
        for number = 0, tonumber(chunks) - 1 do
          redis.call('UNLINK', root .. base .. '.' .. number)
        end
      end
    end
  end
end
return dropped
"""
)

#: name, new name, ttl -> 1, or 0 if there is no such object.
LINK = (
    _PRELUDE
    + """
local name, new, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3])
if redis.call('EXISTS', root .. new) == 1 then return 1 end
local kind = redis.call('TYPE', root .. name).ok
if kind == 'none' then return 0 end
local created = now()
if kind == 'string' then
  local size = redis.call('STRLEN', root .. name)
  redis.call('RENAME', root .. name, root .. name .. '.0')
  manifest(name, name, 1, math.max(size, 1), size, ttl)
  redis.call('HSET', root .. 'index', name, size .. ' ' .. created .. ' 1 ' .. name)
end
local found = redis.call('HMGET', root .. name, 'base', 'chunks', 'chunk', 'size')
local base = found[1]
redis.call('HSETNX', root .. 'shares', base, 1)
redis.call('HINCRBY', root .. 'shares', base, 1)
expire('shares', ttl)
manifest(new, base, found[2], found[3], found[4], ttl)
redis.call('HSET', root .. 'index', new,
  found[4] .. ' ' .. created .. ' ' .. found[2] .. ' ' .. base)
expire('index', ttl)
return 1
"""
)

#: name, new name -> 1 if the object has the new name now; else 0: there is no such
#: object, or another has the new name.
MOVE = (
    _PRELUDE
    + """
local from, to = ARGV[1], ARGV[2]
local there = redis.call('EXISTS', root .. from)
if redis.call('EXISTS', root .. to) == 1 then return 1 - there end
if there == 0 then return 0 end
redis.call('RENAME', root .. from, root .. to)
local entry = redis.call('HGET', root .. 'index', from)
if entry then
  redis.call('HDEL', root .. 'index', from)
  redis.call('HSET', root .. 'index', to, entry)
end
redis.call('ZREM', root .. 'leases', from)
return 1
"""
)

#: name, milliseconds, ttl -> 1, or 0 if there is no such object.
RENEW = (
    _PRELUDE
    + """
if redis.call('EXISTS', root .. ARGV[1]) == 0 then return 0 end
redis.call('ZADD', root .. 'leases', now() + ARGV[2], ARGV[1])
expire('leases', tonumber(ARGV[3]))
return 1
"""
)

#: -> [time, writer, …] of the participants that are alive.
ALIVE = (
    _PRELUDE
    + """
local t = now()
local found = redis.call('ZRANGEBYSCORE', root .. 'members', '(' .. t, '+inf')
table.insert(found, 1, t)
return found
"""
)

#: -> names whose lease has ended.
DUE = (
    _PRELUDE
    + """
return redis.call('ZRANGEBYSCORE', root .. 'leases', '-inf', now())
"""
)
