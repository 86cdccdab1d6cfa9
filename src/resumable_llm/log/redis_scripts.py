"""What happens inside Redis: one script for each thing that must happen at once or not at all.

**Keys.** All of a store's share one hash tag, so a cluster keeps them on one node. Of a log there are

- ``log:<stream>``, a hash: the head, the names, the latest note, the state, and the pen;
- ``events:<stream>``, a stream: everything that readers are told, in order (below);
- ``id:...`` and ``key:...``, which name it;
- before it begins, ``claim:...``: who asks a provider for what will be in it, so that no other process does so too.
  It lapses like a lease.

Of a store there are ``leases`` (who lives, until when), ``ended`` (what may be swept, and when), and of each process
that has it open ``running:<owner>`` (its logs) and ``control:<owner>`` (what others have done to them).

**The pen** is the right to write: ``<owner>:<epoch>-<last>`` while the log runs. Every write names the pen that it
believes in and moves it, so that nothing can be written twice, with a gap, or by somebody whose log was taken over.
``!`` before it says that another process wants the log to end: the owner's next write is refused, and it looks why.
Of a log that has ended, only ``:<epoch>-<last>`` is left.

**Entries** have ``<epoch>-<number>`` for an id, with the number of their last event. Each epoch begins with number 0
and ``o``, how many events were kept; ends with the highest number and ``e``, the state. Epochs are counted from 1
here, for Redis has no id 0-0. What was deleted leaves one entry with the highest id of all for a minute, for whoever
reads it.
"""

from __future__ import annotations

HIGHEST = 2**64 - 1
"""The number of the entry that ends an epoch."""

FIRST_ENTRIES = 256
"""How many entries come with the head."""

_COMMON = f"""
local root = KEYS[1]
local HIGHEST = '{HIGHEST}'
local function log_of(stream) return root .. 'log:' .. stream end
local function events_of(stream) return root .. 'events:' .. stream end

local function stands(stream, now)
  if not stream or redis.call('EXISTS', log_of(stream)) == 0 then return false end
  local over = redis.call('ZSCORE', root .. 'ended', stream)
  return not over or tonumber(over) > tonumber(now)
end

local function keep(stream, ms)
  redis.call('PEXPIRE', log_of(stream), ms)
  redis.call('PEXPIRE', events_of(stream), ms)
  for _, name in ipairs(redis.call('HMGET', log_of(stream), 'id', 'key')) do
    if name ~= '' and redis.call('GET', name) == stream then redis.call('PEXPIRE', name, ms) end
  end
end

local function tell(owner, stream)
  if redis.call('ZSCORE', root .. 'leases', owner) then
    redis.call('XADD', root .. 'control:' .. owner, 'MAXLEN', '~', 1000, '*', 's', stream)
    redis.call('PEXPIRE', root .. 'control:' .. owner, 3600000)
  end
end

local function finish(stream, state, reason, ended_at)
  local log = log_of(stream)
  local pen, owner, note, ttl = unpack(redis.call('HMGET', log, 'pen', 'owner', 'note', 'ttl'))
  local epoch, last = string.match(pen, '(%d+)-(%d+)$')
  redis.call('XADD', events_of(stream), epoch .. '-' .. HIGHEST,
    'e', state, 'r', reason, 't', ended_at, 'l', last, 'n', note)
  redis.call('HSET', log, 'state', state, 'pen', ':' .. epoch .. '-' .. last)
  redis.call('SREM', root .. 'running:' .. owner, stream)
  redis.call('ZADD', root .. 'ended', string.format('%.17g', ended_at + ttl), stream)
  local ms = math.ceil(ttl * 1000) + 60000
  keep(stream, ms)
  if redis.call('PTTL', root .. 'ended') < ms then redis.call('PEXPIRE', root .. 'ended', ms) end
end

local function forget(stream, me)
  local log = log_of(stream)
  local id, key, owner, state = unpack(redis.call('HMGET', log, 'id', 'key', 'owner', 'state'))
  for _, name in ipairs({{id, key}}) do
    if name ~= '' and redis.call('GET', name) == stream then redis.call('DEL', name) end
  end
  redis.call('DEL', log)
  redis.call('ZREM', root .. 'ended', stream)
  redis.call('SREM', root .. 'running:' .. owner, stream)
  redis.call('XADD', events_of(stream), HIGHEST .. '-' .. HIGHEST, 'x', '')
  redis.call('XTRIM', events_of(stream), 'MAXLEN', 1)
  redis.call('PEXPIRE', events_of(stream), 60000)
  if state == 'running' and owner ~= me then tell(owner, stream) end
end

local function found(stream)
  local head, note = unpack(redis.call('HMGET', log_of(stream), 'head', 'note'))
  return {{stream, head, note, redis.call('XRANGE', events_of(stream), '-', '+', 'COUNT', {FIRST_ENTRIES})}}
end
"""

BEGIN = (
    _COMMON
    + """
local me, stream, id, key, claim, now, head, ttl, note, ms = unpack(ARGV)
local gone = {}
for _, name in ipairs({key, id}) do
  local known = name ~= '' and redis.call('GET', name)
  if known and redis.call('EXISTS', log_of(known)) == 1 then
    if stands(known, now) then return {gone, found(known)} end
    forget(known, me)
    gone[#gone + 1] = known
  end
end
redis.call('HSET', log_of(stream), 'head', head, 'id', id, 'key', key, 'ttl', ttl, 'note', note,
  'owner', me, 'state', 'running', 'pen', me .. ':1-0')
redis.call('XADD', events_of(stream), '1-0', 'o', 0)
redis.call('SET', id, stream)
if key ~= '' then
  redis.call('SET', key, stream)
  redis.call('DEL', claim)
end
redis.call('SADD', root .. 'running:' .. me, stream)
redis.call('PEXPIRE', root .. 'running:' .. me, ms)
keep(stream, ms)
return {gone}
"""
)
"""The log of a request: what has expired is forgotten, what is there is told, or else it begins."""

CLAIM = (
    _COMMON
    + """
local mine, key, claim, now, ms = unpack(ARGV)
if stands(redis.call('GET', key), now) then return 0 end
local holder = redis.call('GET', claim)
if holder and string.match(holder, '^[^:]*') ~= string.match(mine, '^[^:]*') then return 0 end
redis.call('SET', claim, mine, 'PX', ms)
return 1
"""
)
"""Have the right to begin the log of a key, unless it was begun or another process has it."""

RELEASE = """
local mine, claim = unpack(ARGV)
if redis.call('GET', claim) == mine then redis.call('DEL', claim) end
"""
"""Give it back."""

FIND = (
    _COMMON
    + """
local stream = redis.call('GET', ARGV[1])
if stream and redis.call('EXISTS', log_of(stream)) == 1 then return found(stream) end
"""
)
"""The log of a name."""

WRITE = (
    _COMMON
    + """
local me, blob = ARGV[1] .. ':', ARGV[2]
local refused = {}
local sub, call = string.sub, redis.call
local at, size = 1, #blob
while at <= size do
  local stream = sub(blob, at, at + 31)
  local epoch, before, last, data, sizes, note, turn, from = struct.unpack('<I4I4I4I4I4I4I4', blob, at + 32)
  local log, id = root .. 'log:' .. stream, epoch .. '-' .. last
  at = from + data + sizes + note + turn
  if call('HGET', log, 'pen') ~= me .. epoch .. '-' .. before then
    refused[#refused + 1] = stream
  else
    local body = sub(blob, from, from + data - 1)
    from = from + data
    if sizes > 0 then
      call('XADD', root .. 'events:' .. stream, id, 'd', body, 's', sub(blob, from, from + sizes - 1))
    elseif data > 0 then
      call('XADD', root .. 'events:' .. stream, id, 'd', body)
    end
    from = from + sizes
    if note > 0 then
      call('HSET', log, 'pen', me .. id, 'note', sub(blob, from + 1, from + note - 1))
    elseif data > 0 then
      call('HSET', log, 'pen', me .. id)
    end
    if turn > 0 then finish(stream, unpack(cjson.decode(sub(blob, from + note, at - 1)))) end
  end
end
return refused
"""
)
"""What many logs have to tell, and which of them may not."""

LOOK = """
local me, stream = unpack(ARGV)
local log = KEYS[1] .. 'log:' .. stream
local pen, state, wish, why = unpack(redis.call('HMGET', log, 'pen', 'state', 'wish', 'why'))
if pen and string.sub(pen, 1, #me + 2) == '!' .. me .. ':' then
  pen = string.sub(pen, 2)
  redis.call('HSET', log, 'pen', pen)
end
if pen then return {pen, state, wish or '', why or ''} end
"""
"""Why a write was refused. A wish that the owner has heard of stands no more in its way."""

WISH = (
    _COMMON
    + """
local stream, state, reason = unpack(ARGV)
local log = log_of(stream)
local pen, owner, now = unpack(redis.call('HMGET', log, 'pen', 'owner', 'state'))
if now == 'running' and string.sub(pen, 1, 1) ~= '!' then
  redis.call('HSET', log, 'pen', '!' .. pen, 'wish', state, 'why', reason)
  tell(owner, stream)
end
"""
)
"""Another process than the owner wants the log to end."""

REOPEN = (
    _COMMON
    + """
local me, stream, ms = unpack(ARGV)
local log = log_of(stream)
local state, pen, note = unpack(redis.call('HMGET', log, 'state', 'pen', 'note'))
if not state then return {} end
if state ~= 'interrupted' then return {state} end
local epoch, last = string.match(pen, '(%d+)-(%d+)$')
epoch = string.format('%d', epoch + 1)
redis.call('XADD', events_of(stream), epoch .. '-0', 'o', last)
redis.call('HSET', log, 'owner', me, 'state', 'running', 'pen', me .. ':' .. epoch .. '-' .. last)
redis.call('HDEL', log, 'wish', 'why')
redis.call('ZREM', root .. 'ended', stream)
redis.call('SADD', root .. 'running:' .. me, stream)
redis.call('PEXPIRE', root .. 'running:' .. me, ms)
keep(stream, ms)
return {state, note}
"""
)
"""Take over what is interrupted."""

DISOWN = (
    _COMMON
    + """
local me, stream, reason, now = unpack(ARGV)
local state, owner = unpack(redis.call('HMGET', log_of(stream), 'state', 'owner'))
if state == 'running' and owner == me then
  finish(stream, 'interrupted', reason, now)
else
  redis.call('SREM', root .. 'running:' .. me, stream)
end
"""
)
"""Interrupt a log that its owner does not know of."""

DELETE = (
    _COMMON
    + """
local stream = redis.call('GET', ARGV[2])
if stream and redis.call('EXISTS', log_of(stream)) == 1 then
  forget(stream, ARGV[1])
  return stream
end
"""
)
"""Forget the log of a name."""

SWEEP = (
    _COMMON
    + """
local over = redis.call('ZRANGEBYSCORE', root .. 'ended', '-inf', ARGV[2], 'LIMIT', 0, 100)
local gone = {}
for _, stream in ipairs(over) do
  if redis.call('EXISTS', log_of(stream)) == 1 then
    forget(stream, ARGV[1])
    gone[#gone + 1] = stream
  else
    redis.call('ZREM', root .. 'ended', stream)
  end
end
return {#over, gone}
"""
)
"""Forget some of what has expired."""

TICK = (
    _COMMON
    + """
local me, lease, now, reason, ms, renew = unpack(ARGV, 1, 6)
local time = redis.call('TIME')
time = time[1] * 1000 + math.floor(time[2] / 1000)
local added = redis.call('ZADD', root .. 'leases', string.format('%.17g', time + lease), me)
redis.call('PEXPIRE', root .. 'leases', ms)
for at = 7, #ARGV, 2 do
  if redis.call('GET', ARGV[at]) == ARGV[at + 1] then redis.call('PEXPIRE', ARGV[at], lease) end
end
local interrupted = 0
local lapsed = redis.call('ZRANGEBYSCORE', root .. 'leases', '-inf', string.format('%.17g', time))
for _, owner in ipairs(lapsed) do
  redis.call('ZREM', root .. 'leases', owner)
  for _, stream in ipairs(redis.call('SMEMBERS', root .. 'running:' .. owner)) do
    local writer, state, wish, why = unpack(redis.call('HMGET', log_of(stream), 'owner', 'state', 'wish', 'why'))
    if writer == owner and state == 'running' then
      finish(stream, wish or 'interrupted', why or reason, now)
      interrupted = interrupted + 1
    end
  end
  redis.call('DEL', root .. 'running:' .. owner)
end
if renew == '1' then
  redis.call('PEXPIRE', root .. 'running:' .. me, ms)
  for _, stream in ipairs(redis.call('SMEMBERS', root .. 'running:' .. me)) do keep(stream, ms) end
end
return {added, interrupted}
"""
)
"""Renew one's lease and one's claims, and interrupt the logs of those whose leases have lapsed."""

LEAVE = """
local me = ARGV[1]
if redis.call('SCARD', KEYS[1] .. 'running:' .. me) == 0 then
  redis.call('ZREM', KEYS[1] .. 'leases', me)
else
  redis.call('ZADD', KEYS[1] .. 'leases', 0, me)
end
redis.call('DEL', KEYS[1] .. 'control:' .. me)
"""
"""Let one's lease lapse."""

GONE = """
local gone = {}
for _, stream in ipairs(ARGV) do
  if redis.call('EXISTS', KEYS[1] .. 'log:' .. stream) == 0 then gone[#gone + 1] = stream end
end
return gone
"""
"""Which logs are not there."""

NUDGE = """
local control = KEYS[1] .. 'control:' .. ARGV[1]
redis.call('XADD', control, 'MAXLEN', '~', 1000, '*', 's', '')
redis.call('PEXPIRE', control, 3600000)
"""
"""Have an owner's question for news answered at once."""
