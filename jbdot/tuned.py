def choice(request, platform):
    return None
