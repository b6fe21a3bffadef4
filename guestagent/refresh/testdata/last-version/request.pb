
þ
¤{"schema":1,"kind":"base","name":"debian","sequence":2,"previous":"sha256:8694ac7d087b5c894eb8723caeb15c2a3ed9a0542c851fe1f570415a5eb67fe0","architecture":"amd64","os":"Debian","layers":[{"id":"sha256:f191e625176e7514249870c60bc24622131b04927a418001d1969c9cecd260f1","data_size":4096,"size":8192,"delta":false},{"id":"sha256:77c7ed05b2e49df2e55d70cb007508cc66b2f5419a940bfd6f8749ba7db77c45","data_size":4096,"size":8192,"delta":true}],"contents":{"digest":"sha256:bb77bc6e0c94575db66da981180cdfa6f1040611716b896928517aa14744562b","size":265},"kernel":{"release":"6.12.0","image":{"digest":"sha256:6923dd1bc0460082c5d55a831908c24a282860b7f1cd6c2b79cf1bc8857c639c","size":1},"modules":{"digest":"sha256:6923dd1bc0460082c5d55a831908c24a282860b7f1cd6c2b79cf1bc8857c639c","size":1}},"packages":[],"users":{},"groups":{}}

â€” sharedos-operator Xo9B29U9jPj0fKx/5vmO4YUQp6GCArt9AhgnUB8CbwRrdX40TrC53fu49L+L/+DdmGH0UEkrzDl88e1wd+2DK+fUjgM=
Ô{"schema":1,"kind":"base","name":"debian","sequence":1,"architecture":"amd64","os":"Debian","layers":[{"id":"sha256:f191e625176e7514249870c60bc24622131b04927a418001d1969c9cecd260f1","data_size":4096,"size":8192,"delta":false}],"contents":{"digest":"sha256:935807d8e3827c8e897f3fc7fc9de3f97d6bde96eb82bb13698f88bec22616ef","size":265},"kernel":{"release":"6.12.0","image":{"digest":"sha256:6923dd1bc0460082c5d55a831908c24a282860b7f1cd6c2b79cf1bc8857c639c","size":1},"modules":{"digest":"sha256:6923dd1bc0460082c5d55a831908c24a282860b7f1cd6c2b79cf1bc8857c639c","size":1}},"packages":[],"users":{},"groups":{}}

â€” sharedos-operator Xo9B2xtjoQ0iBSUo29+nlPLUFqccyev9Y0WnXrv9+FX1bqAf2ohtJA+tzpfyyRTFJpda312hhYbyuO817IEMpCo5QQk=

web0	a.service 2live